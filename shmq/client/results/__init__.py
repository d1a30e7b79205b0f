"""How a job ends for its producer.

collecting.py  out of the slot into the handle
blocking.py    wait for a job, inside a task too
cancelling.py  cancel a job
lateness.py    why a job has not ended yet, for who waited in vain
callbacks.py   who is called once a job has ended; `poller.py`: the thread that does
"""
