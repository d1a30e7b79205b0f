"""Measures shmq beside its peers and the machine's own floor in the same run: `python -m perf`.

Absolute figures move from host to host and from minute to minute; ratios taken side by side stay.
"""
