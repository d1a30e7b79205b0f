"""What the built-in producers submit, in which shares, and what must come back.

Most calls travel in chunks of `map`, as they would where a day brings millions; all others are jobs of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import shmq
from shmq.errors import JobCancelled
from shmq.memcheck.soak import tasks
from shmq.memcheck.soak.tally import Counts

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job

JOBS_PER_S = 120.0  # 10.4 million in 24 h
RECYCLED_SHARE = 0.02  # of the jobs, those of the group whose workers are replaced all the time
JOBS_PER_WORKER = 100  # after which such a worker is replaced, looked at ten times a second: over 1,000 times in 24 h
SCALE_CHANGES_PER_HOUR = 4.0
CONFIG = f"""
tasks = ["shmq.memcheck.soak.tasks"]

[groups.computation]
kind = "cpu"
min_workers = 2
max_workers = 2

[groups.network]
kind = "io"
concurrency = 50
min_workers = 1
max_workers = 3

[groups.filesystem]
kind = "io"
mode = "fixed"
min_workers = 8
max_workers = 8
max_jobs_per_worker = {JOBS_PER_WORKER}

[groups.memory]
kind = "cpu"
min_workers = 1
max_workers = 1
max_batch = 4

[memory]
max_producers = 16
max_workers = 24
slots_per_producer = 1024
block_budget_bytes = 67108864
"""
LEAN_CONFIG = """
tasks = ["shmq.memcheck.soak.tasks"]

[groups.computation]
kind = "cpu"
min_workers = 2
max_workers = 2

# for tasks of the mixed workload, which this one never calls
[groups.network]
min_workers = 0
[groups.filesystem]
min_workers = 0
[groups.memory]
min_workers = 0

[memory]
max_producers = 16
max_workers = 8
"""


@dataclass(frozen=True)
class Kind:
    """One sort of job: its share of all, how it is submitted, and how its outcome is read and counted."""

    share: float
    submit: Callable[[Client, int], Job[Any]]
    read: Callable[[Job[Any], int, Counts], bool]  # False: not the outcome that was meant


WAIT_S = 300.0  # no job takes so long, however busy the machine is


@cache
def _text() -> str:
    return "soak " * 10_000


@cache
def _array() -> Any:
    return np.arange(16_384, dtype=np.float64)


def _is_number(job: Job[Any], number: int, _counts: Counts) -> bool:
    return bool(job.result(WAIT_S) == number)


def _is_text(job: Job[Any], _number: int, counts: Counts) -> bool:
    counts.large += 1
    return bool(job.result(WAIT_S) == _text())


def _is_doubled(job: Job[Any], _number: int, counts: Counts) -> bool:
    counts.large += 1
    return bool(job.result(WAIT_S)[-1] == 2 * _array()[-1])


def _has_failed(job: Job[Any], _number: int, counts: Counts) -> bool:
    counts.failed += 1
    return isinstance(job.exception(WAIT_S), ValueError)


def _was_retried(job: Job[Any], number: int, counts: Counts) -> bool:
    counts.retried += 1
    return _is_number(job, number, counts)


def _timed_out(job: Job[Any], _number: int, counts: Counts) -> bool:
    counts.timed_out += 1
    return isinstance(job.exception(WAIT_S), shmq.TaskTimeout)


def _was_cancelled(job: Job[Any], number: int, counts: Counts) -> bool:
    """Too late for some: those must have run."""
    try:
        return _is_number(job, number, counts)
    except JobCancelled:
        counts.cancelled += 1
        return True


def _cancelled_at_once(client: Client, number: int) -> Job[Any]:
    job = client.submit(tasks.echo, number)
    job.cancel()
    return job


KINDS: Mapping[str, Kind] = {
    "single": Kind(0.03, lambda client, n: client.submit(tasks.echo, n), _is_number),
    "file": Kind(RECYCLED_SHARE, lambda client, n: client.submit(tasks.list_folder, n), _is_number),
    "pause": Kind(0.005, lambda client, n: client.submit(tasks.pause, n), _is_number),
    "text": Kind(0.002, lambda client, _: client.submit(tasks.repeat, _text()), _is_text),
    "array": Kind(0.002, lambda client, _: client.submit(tasks.double, _array()), _is_doubled),
    "fail": Kind(0.003, lambda client, n: client.submit(tasks.fail, n), _has_failed),
    "retry": Kind(0.001, lambda client, n: client.submit(tasks.fail_once, n), _was_retried),
    "cancel": Kind(0.002, _cancelled_at_once, _was_cancelled),
    "overrun": Kind(0.000_02, lambda client, n: client.submit(tasks.overrun, n), _timed_out),
}
