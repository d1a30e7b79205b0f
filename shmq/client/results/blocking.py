"""Wait for a job. Inside a task the pool learns of it, so that workers that wait do not stop their group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from shmq.client.results.collecting import check_own
from shmq.client.results.lateness import why_late
from shmq.errors import WouldDeadlock
from shmq.memory.doorbell import deadline as deadline_after
from shmq.tasks import current

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job


def wait_for(client: Client, job: Job[Any], timeout: float | None) -> None:
    """Block until the job has ended. Caller must: have looked whether it has. Raises TimeoutError."""
    client._refuse_reentry()
    check_own(client, job)
    give_up = deadline_after(timeout)
    has_ended = partial(client._peek, job)
    while True:
        if is_in_task():
            with waiting_for(job):
                is_ready = client._waiter.wait(has_ended, give_up)
        else:
            is_ready = client._waiter.wait(has_ended, give_up)
        if not is_ready:
            late = f"job {job.id} of {job.task_name} is {job.state} after {timeout} s; it goes on"
            raise TimeoutError(f"{late}.\n{why_late(client, job)}")
        if client.collect(job):
            return


def is_in_task() -> bool:
    """Is this process a worker? Then its pool must know of a wait: `waiting_for`."""
    return current.worker() is not None


def waiting_for(*jobs: Job[Any]) -> contextlib.AbstractContextManager[None]:
    """Around a wait for the first of `jobs` that ends: inside a task the pool must know of it."""
    return _blocked_worker(jobs) if is_in_task() else contextlib.nullcontext()


@contextlib.contextmanager
def _blocked_worker(jobs: tuple[Job[Any], ...]) -> Iterator[None]:
    """Inside a task: this worker waits for one of `jobs`, so the pool may fork a substitute.

    Raises:
        WouldDeadlock: each of them waits in this worker's own group and no further worker may be forked.
    """
    worker = current.worker()
    assert worker is not None
    wait = object()
    try:
        worker.enter_wait(wait)
        chains = [worker.deadlock(job._slot, job._generation) for job in jobs]
        if all(chains):
            job, chain = jobs[0], chains[0]
            raise WouldDeadlock(
                f"waiting for {job.task_name} (job {job.id}) would never end: {chain}.\n"
                "Every worker of the group, substitutes included, waits for a job of the same group. Raise max_workers "
                "or max_substitutes, put the inner task into another group, or call it directly."
            )
        yield
    finally:
        worker.leave_wait(wait)
