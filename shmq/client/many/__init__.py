"""Many calls of one task as few jobs.

mapping.py    `map`: chunks by the time they take
streaming.py  `stream`: chunks by bytes, in bounded memory; `window.py`: what may be under way
batching.py   how many calls are worth a chunk, as measured
"""
