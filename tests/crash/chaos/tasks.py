"""The mixed load. Each task notes that it began and, as its last act, what it received."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

import shmq
from tests.crash.chaos.records import DONE, FOLDER, STARTED, Book, checksum

_book = Book(Path(os.environ.get(FOLDER, ".")), "worker")


def _begin(producer: int, sequence: int) -> int:
    job = shmq.current_job()
    attempt = job.attempt if job is not None else 0
    _book.write(STARTED, producer, sequence, 0, attempt)
    return attempt


def _end(producer: int, sequence: int, data: bytes, attempt: int) -> int:
    total = checksum(data)
    _book.write(DONE, producer, sequence, total, attempt)
    return total


@shmq.task
def quick(producer: int, sequence: int, data: bytes) -> int:
    """Nothing but the records."""
    attempt = _begin(producer, sequence)
    return _end(producer, sequence, data, attempt)


@shmq.task(group="waiting")
def napping(producer: int, sequence: int, data: bytes) -> int:
    """Killed in the middle more often than others."""
    attempt = _begin(producer, sequence)
    time.sleep(0.002)
    return _end(producer, sequence, data, attempt)


@shmq.task(retries=5, backoff=0.002)
def stumbling(producer: int, sequence: int, data: bytes) -> int:
    """Raises in its first attempt."""
    attempt = _begin(producer, sequence)
    if attempt == 1:
        raise ValueError("the first attempt fails")
    return _end(producer, sequence, data, attempt)


@shmq.task
def echoing(producer: int, sequence: int, data: bytes) -> bytes:
    """Argument and result may both need a block."""
    attempt = _begin(producer, sequence)
    _end(producer, sequence, data, attempt)
    return data


@shmq.task(group="waiting")
def summing(producer: int, sequence: int, values: np.ndarray) -> int:
    """An array in a block."""
    attempt = _begin(producer, sequence)
    return _end(producer, sequence, values.tobytes(), attempt)
