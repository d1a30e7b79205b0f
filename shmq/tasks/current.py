"""What the running code is part of: the job and worker around it, if any.

Set by the worker; read by the client (a job submitted inside a task knows its parent) and by user
code through `shmq.cancelled()` and `shmq.current_job()`.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class WorkerSeat(Protocol):
    """What a waiting client tells the worker it runs in."""

    def enter_wait(self, wait: object) -> None:
        """The task waits for another job; the pool may fork a substitute. `wait` is this wait, and no other."""

    def leave_wait(self, wait: object) -> None:
        """The wait is over, be it that it never began."""

    def deadlock(self, slot: int, generation: int) -> str:
        """The chain of waiting jobs when a wait for that job can never end; "" when it can."""

    def running_job(self) -> CurrentJob | None:
        """The job on the main thread, looked up only when somebody asks."""

    def is_cancelled(self, slot: int, generation: int) -> bool:
        """Was the job asked to stop?"""


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """The job that the calling code belongs to."""

    slot: int
    generation: int
    task: str
    group: str
    attempt: int

    @property
    def id(self) -> str:
        """As `Job.id` of its handle."""
        return f"{self.generation:x}-{self.slot:x}"


_worker: WorkerSeat | None = None
_job: contextvars.ContextVar[CurrentJob | None] = contextvars.ContextVar("shmq_job", default=None)


def set_worker(worker: WorkerSeat | None) -> None:
    """Called once by the worker after its fork."""
    global _worker
    _worker = worker


def worker() -> WorkerSeat | None:
    """The worker this process is, if it is one."""
    return _worker


def _nothing() -> None:
    return


_make_room: Callable[[], None] = _nothing


def set_make_room(function: Callable[[], None]) -> None:
    """Called by the client's module: moves this process's ended results out of the blocks."""
    global _make_room
    _make_room = function


def make_room() -> None:
    """A result finds no free block: this process's own unread results may hold them."""
    _make_room()


def set_job(job: CurrentJob | None) -> contextvars.Token[CurrentJob | None]:
    """Set the job of this thread or coroutine."""
    return _job.set(job)


def current_job() -> CurrentJob | None:
    """The job around the caller; None outside of a worker."""
    return _job.get() or (_worker.running_job() if _worker is not None else None)


def job_id() -> int:
    """Id word of the job around the caller; 0 outside of a worker."""
    if _worker is None:
        return 0
    job = current_job()
    return 0 if job is None else job.generation << 32 | job.slot


def cancelled() -> bool:
    """Inside a task: was this job asked to stop? Long tasks look now and then, and return."""
    job = current_job()
    return job is not None and _worker is not None and _worker.is_cancelled(job.slot, job.generation)
