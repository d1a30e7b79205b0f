"""What a group's workers use, and why: `shmq.memory()`, `shmq status --memory`.

look.py    asks the workers, reads the job table and the blocks, and says it in words
own.py     the worker's end: what only the process itself can tell of its heap
model.py   the answer as frozen structs
"""
