"""From a task to its lane, and the way there when the hot path has left it.

targets.py    what submitting a task needs, worked out once per task and client
kinds.py      what a job may be of: a task, one known by name only, chunks, parts
routing.py    tasks whose jobs do not all go to one group
slow_path.py  what is not plain: keywords, blocks, delays, chunks, no room yet
room.py       a free slot, a lane entry, blocks; what to say when there is none
"""
