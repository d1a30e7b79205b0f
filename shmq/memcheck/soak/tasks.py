"""What the built-in workload runs: one or two tasks for each of the four groups. None of them may leak."""

from __future__ import annotations

import asyncio
import os
import time
import zlib

import numpy as np
from numpy.typing import NDArray

import shmq

_FOLDER = "/proc/self"


@shmq.task(group="computation")
def echo(number: int) -> int:
    """The smallest job there is; also the call of all chunks."""
    return number


@shmq.task(group="computation")
def repeat(text: str) -> str:
    """Large in both directions: through blocks."""
    return text


@shmq.task(group="computation")
def fail(number: int) -> int:
    """Fails for good."""
    raise ValueError(f"job {number} was meant to fail")


@shmq.task(group="computation", retries=2, backoff=0.01, max_backoff=0.05)
def fail_once(number: int) -> int:
    """Fails at its first attempt only."""
    job = shmq.current_job()
    if job is not None and job.attempt <= 1:
        raise OSError(f"job {number} was meant to fail once")
    return number


@shmq.task(group="computation", timeout=0.02, retries=0)
def overrun(number: int) -> int:
    """Runs into its time limit."""
    time.sleep(5.0)
    return number


@shmq.task(group="network")
async def pause(number: int) -> int:
    """Waits, as a request does; many at once in one worker."""
    await asyncio.sleep(0.001)
    return number


@shmq.task(group="filesystem")
def list_folder(number: int) -> int:
    """Opens, reads and closes a folder and a file."""
    os.listdir(f"{_FOLDER}/fd")
    with open(f"{_FOLDER}/stat", "rb") as file:
        zlib.crc32(file.read())
    return number


@shmq.task(group="memory")
def double(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """An array in, a new one out."""
    return array * 2.0
