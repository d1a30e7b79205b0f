"""Out of the slot into the handle: how the end of a job reaches its producer, and its slot becomes free again."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.client.handle import ERROR, LOST, PENDING, RAW, RAW_ERROR, VALUE, Job
from shmq.client.parts.unread import rescue
from shmq.errors import JobCancelled, JobError, ShmqError
from shmq.memory import late
from shmq.transport.table import CANCELLED, CRASHES, DONE, GENERATION_SHIFT, STATE, STATE_NAMES
from shmq.wire.failure import Failure, rebuild
from shmq.wire.header import BLOCK, REFERENCES, STREAMED

if TYPE_CHECKING:
    from shmq.client.client import Client


def collect_slowly(client: Client, job: Job[Any]) -> bool:
    """What `collect` leaves: blocks, cancelled jobs, foreign handles. Caller must: hold the lock."""
    if job._state != PENDING:
        return True
    slot = job._slot
    check_own(client, job)
    word = client._words[slot]
    if word >> GENERATION_SHIFT != job._generation:
        raise foreign(job)
    if word & STATE < DONE:
        return False
    _absorb(client, job, slot, word)
    client._jobs[slot - client._first] = None
    client._publisher.release(slot)
    return True


def _absorb(client: Client, job: Job[Any], slot: int, word: int) -> None:
    """Move the job's end from its slot into its handle; arrays stay in their pinned blocks."""
    state = word & STATE
    if state == CANCELLED:
        when = "while" if word & CRASHES else "before"  # an attempt is paid when it starts
        job._outcome = JobCancelled(f"job {job.id} of {job.task_name} was cancelled {when} it ran")
        job._state = ERROR
        return
    result = client._results[slot]
    length, place, kind = result >> 32, result >> 8 & 0xFFFFFF, result & 0xFF
    if kind & REFERENCES:
        late.load()  # here, where the job stays as it is when a signal handler raises meanwhile
    if kind & BLOCK:
        data = bytes(client._blocks.bytes_at(place, length))
    else:
        at = client._payload_at + slot * client._stride + place
        data = client._map[at : at + length]
    if kind & STREAMED and not rescue(client, job, state):
        return
    job._raw = data
    job._state = RAW if state == DONE else RAW_ERROR
    if kind & REFERENCES:  # views must be pinned before the slot is freed
        client.decode(job)
        client._decoder.pin_living_views()


def decode(client: Client, job: Job[Any]) -> None:
    """Turn the raw result in the handle into a value."""
    with client._lock:
        if job._state != RAW:
            return
        try:
            job._outcome, job._state = client._decoder.decode_as(job._origin.decode, job._raw or b""), VALUE
        except Exception as error:
            job._outcome, job._state = _unreadable(job, error), ERROR


def error_of(job: Job[Any]) -> BaseException:
    """The failure in the handle as an exception."""
    try:
        return rebuild(msgspec.msgpack.decode(job._raw or b"", type=Failure))
    except Exception as error:
        return _unreadable(job, error)


def sweep(client: Client) -> None:
    """Free every ended slot of the row; results move into their handles."""
    for slot in client._publisher.ended():
        job = client._jobs[slot - client._first]
        client._jobs[slot - client._first] = None
        word = client._words[slot]
        # two references, the local name and the call's: nobody else holds the handle, nobody will read
        if job is not None and sys.getrefcount(job) > 2 and job._state == PENDING:
            _absorb(client, job, slot, word)
        client._publisher.release(slot)


def make_room_for_results(client: Client) -> None:
    """If a result waits for a free block: move what has ended here out of the blocks, into the handles."""
    if any(client._wanted_blocks) and not client._is_busy():
        with client._lock:
            if client._pid == os.getpid() and not client._is_closed:
                sweep(client)


def make_room_before_sleep(client: Client) -> None:
    """The same for who is about to wait for a job; spared where that is the only one, which holds no result yet."""
    if len(client._free) < len(client._jobs) - 1:
        make_room_for_results(client)


def state_of(client: Client, job: Job[Any]) -> str:
    """The job's state in words."""
    if job._state == ERROR and isinstance(job._outcome, JobCancelled):
        return "cancelled"
    if job._state == LOST:
        return "unknown"
    if job._state in (VALUE, ERROR):
        return "done" if job._state == VALUE else "failed"
    if job._state in (RAW, RAW_ERROR):
        return "done" if job._state == RAW else "failed"
    word = client._words[job._slot]
    if word >> GENERATION_SHIFT != job._generation:
        return "done"
    return STATE_NAMES[min(word & STATE, CANCELLED)]


def has_left(client: Client, job: Job[Any]) -> bool:
    """Has the job left its slot? That is all that is known of a forgotten job."""
    return bool(client._words[job._slot] >> GENERATION_SHIFT != job._generation)


def check_own(client: Client, job: Job[Any]) -> None:
    """Refuse a pending job of another row: before a fork, or before a close."""
    if not client._first <= job._slot < client._first + len(client._jobs):
        raise foreign(job)


def foreign(job: Job[Any]) -> ShmqError:
    """What to raise for a handle that is not of this row."""
    return ShmqError(
        f"job {job.id} of {job.task_name} cannot be read here: its handle was made before a fork or before the "
        "client was closed.\nRead results in the process that submitted the job."
    )


def _unreadable(job: Job[Any], error: Exception) -> JobError:
    return JobError(
        f"job {job.id} of {job.task_name}: its result cannot be read: {error!r}.\n"
        "Does the task return what its annotation says? Else some process damaged the segment."
    )
