"""Cancel a job: the handle says at once what is certain, the slot comes back later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq.client.handle import ERROR, PENDING, Job
from shmq.client.results.collecting import check_own
from shmq.errors import JobCancelled

if TYPE_CHECKING:
    from shmq.client.client import Client

_MOST_ORPHANS = 16  # cancelled jobs whose slots nobody has fetched back


def cancel(client: Client, job: Job[Any], *, kill: bool = False) -> bool:
    """See Job.cancel."""
    with client._lock:
        if job._state != PENDING:
            return False
        check_own(client, job)
        is_certain = client._publisher.cancel(job._slot, job._generation)
        if kill and not is_certain:
            client._publisher.kill(job._slot, job._generation)
        if is_certain and not client.collect(job):
            job._outcome = JobCancelled(f"job {job.id} of {job.task_name} was cancelled before it ran")
            job._state = ERROR
            client._jobs[job._slot - client._first] = None  # its slot comes back when a claim passes the entry
            _fetch_orphans(client)
    client._callbacks.run()
    return is_certain


def _fetch_orphans(client: Client) -> None:
    """Free slots of cancelled jobs now and then: their blocks are missed by others long before slots are here."""
    client._orphans += 1
    if client._orphans >= _MOST_ORPHANS:
        client._orphans = 0
        for slot in client._publisher.ended():
            if client._jobs[slot - client._first] is None:
                client._publisher.release(slot)
