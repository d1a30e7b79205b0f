"""The tasks that the bench's supervisors load: `perf.functions`, declared. Echo is spelt out."""

from __future__ import annotations

import os
import time

import numpy as np

import shmq
from perf import functions

_tallied = 0


@shmq.task
def echo(value: int) -> int:
    return value


@shmq.task
def sum_array(array: np.ndarray) -> float:
    return functions.sum_array(array)


@shmq.task
def spin(seed: int) -> int:
    return functions.spin(seed)


@shmq.task
def nap(seconds: float) -> tuple[int, float, float]:
    return functions.nap(seconds)


@shmq.task
def tally(_value: int) -> None:
    """Counts its calls in this worker: how a job without a result can be verified."""
    global _tallied
    _tallied += 1


@shmq.task
def tallied() -> tuple[int, int]:
    time.sleep(0.002)  # long enough for another worker to be woken for the next one
    return os.getpid(), _tallied


@shmq.task
def begin_twice(note: str) -> tuple[int, float]:
    """The first run writes its pid and waits to be killed; the next returns its pid and when it began."""
    return functions.begin_twice(note)


_heap: list[dict[str, int]] = []
_kept: list[bytes] = []


@shmq.task
def churn(objects: int) -> float:
    """Seconds that a job takes which makes garbage in cycles, in a worker that holds many objects."""
    if not _heap:
        _heap.extend({"n": n} for n in range(objects))
    return functions.make_garbage()


@shmq.task
def in_pieces(mebibytes: int) -> tuple[int, int]:
    """Pid, and private bytes after much was allocated in pieces, little of it kept, the rest freed."""
    return os.getpid(), functions.in_pieces(mebibytes, _kept)
