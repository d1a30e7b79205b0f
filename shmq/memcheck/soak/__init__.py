"""Runs that bring a day of load in minutes and are judged: `shmq soak`.

runner.py     the run: supervisor, producers, readings, report
rig.py        the supervisor of the run, in a namespace of its own; `guarded.py`: ends it when the run is killed
mix.py        what the built-in producers submit, and in which shares
tasks.py      the tasks they submit
producer.py   a producer process; `tally.py`: how it tells what it has done
readings.py   which processes there are, and what is counted beside them
orders.py     asks running workers for a memray trace; `watch.py`: the worker's end of it
"""
