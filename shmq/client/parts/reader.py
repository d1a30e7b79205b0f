"""The reader's end of a stream: the parts of a running job, or the list of an ended one, as an iterator."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from shmq.client.handle import ERROR, LOST, PENDING, RAW, RAW_ERROR, VALUE
from shmq.client.parts.unread import Nothing, parts_of
from shmq.client.results.blocking import waiting_for
from shmq.client.results.collecting import check_own, foreign
from shmq.client.results.lateness import why_late
from shmq.errors import ReentrantSubmit, ShmqError
from shmq.memory.doorbell import deadline as deadline_after
from shmq.transport.table import DONE, GENERATION_SHIFT, STATE

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job

T = TypeVar("T")


class PartStream(Generic[T]):
    """The parts of one job as an iterator, also for `async for`. Made by `Job.stream`.

    Concurrency: threads may share it; each part goes to one of them.
    """

    def __init__(self, client: Client, job: Job[Any], timeout: float | None) -> None:
        self._client, self._job, self._timeout = client, job, timeout
        self._pid = os.getpid()
        self._keeps = job._state in (VALUE, ERROR, LOST)  # `result()` was called before
        self._rest: deque[Any] | None = None  # of a job that ended before anybody asked for parts
        self._left: deque[Any] = job._parts.left if hasattr(job, "_parts") else deque()
        self.is_over = False  # read to its end, failed or closed

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next part; waits for it."""
        found = self.within(self._timeout)
        if found is None:
            raise self._late()
        if not found:
            raise StopIteration
        return found[0]

    def within(self, timeout: float | None) -> list[T] | None:
        """The next part alone, nothing at the end; None when none has come in `timeout` seconds."""
        found: list[T] = []
        try:
            return [self._left.popleft()]
        except IndexError:
            pass
        return found if self._wait(lambda: self._step(found), deadline_after(timeout)) else None

    async def __anext__(self) -> T:
        """The next part; other coroutines run meanwhile."""
        import asyncio  # imported by whoever runs a loop; costs others 50 ms

        found: list[T] = []
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.set)

        give_up = deadline_after(self._timeout)
        while not self._step(found):
            arrived.clear()
            with self._client._callbacks.waking(self.is_ready, wake), waiting_for(self._job):
                if self.is_ready():
                    continue
                left_s = give_up - loop.time()
                try:
                    await asyncio.wait_for(arrived.wait(), None if left_s == float("inf") else max(left_s, 0.0))
                except TimeoutError:
                    raise self._late() from None
        if not found:
            raise StopAsyncIteration
        return found[0]

    def _late(self) -> TimeoutError:
        job, why = self._job, why_late(self._client, self._job)
        return TimeoutError(f"no part of job {job.id} of {job.task_name} came in {self._timeout} s; it goes on.\n{why}")

    def close(self) -> None:
        """Read no more: a job that still runs is cancelled. A second call does nothing."""
        if self.is_over:
            return
        self.is_over = True
        self._left.clear()
        if self._pid != os.getpid() or self._job._state != PENDING:
            return
        self._job._parts.close()
        self._client.cancel(self._job)
        self._client._closed_streams.append(self._job)
        collect_closed(self._client)

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "is_over", True) and self._pid == os.getpid() and self._job._state == PENDING:
            self.is_over = True
            self._job._parts.close()  # no lock: this thread may hold it
            self._client._closed_streams.append(self._job)

    # -- inside ------------------------------------------------------------------------

    def _wait(self, is_ready: Callable[[], bool], give_up: float) -> bool:
        """Until `is_ready()`; inside a task the pool learns that its worker waits."""
        if self._client._is_busy():
            raise ReentrantSubmit(
                "this thread is inside the client already: a signal handler or finalizer waits for a part while a "
                "submit was under way.\nSet a flag there and read from the main flow."
            )
        if is_ready():
            return True
        collect_closed(self._client)
        with waiting_for(self._job):
            return self._client._waiter.wait(is_ready, give_up)

    def _step(self, found: list[T]) -> bool:
        """Take the next part if there is one; True when there is, or when none will come. Raises the job's error."""
        client, job = self._client, self._job
        with client._lock:
            if found or self.is_over:  # asked twice: a part is taken once
                return True
            if self._pid != os.getpid():
                raise foreign(job)
            try:
                return self._take(found)
            except Nothing:
                return False
            except Exception:
                self.close()
                raise

    def _take(self, found: list[T]) -> bool:
        """Caller must: hold the lock."""
        client, job = self._client, self._job
        if job._state == PENDING:
            check_own(client, job)
            word = client._words[job._slot]
            try:
                found.append(job._parts.next())
            except Nothing:
                # the word was read before the ring: nothing can have come in between
                if word >> GENERATION_SHIFT == job._generation and word & STATE < DONE:
                    job._parts.check_attempt(word)
                    raise
                client.collect(job)
            else:
                return True
        return self._take_ended(found)

    def _take_ended(self, found: list[T]) -> bool:
        job = self._job
        if job._state == RAW:
            self._client.decode(job)
        left = job._parts.left if hasattr(job, "_parts") else None
        if left:
            found.append(left.popleft())
            return True
        if job._state in (RAW_ERROR, ERROR, LOST):
            raise job._error()
        if self._rest is None:
            self._rest = deque(job._outcome if job._outcome is not None else ())
            if not self._keeps:
                job._outcome = None
        if self._rest:
            found.append(self._rest.popleft())
        else:
            self.is_over = True
        return True

    def is_ready(self) -> bool:
        """Is there a part, or will none come any more?"""
        job = self._job
        if job._state != PENDING or job._parts.has_part():
            return True
        word = self._client._words[job._slot]
        return bool(word & STATE >= DONE or word >> GENERATION_SHIFT != job._generation)


def collect_closed(client: Client) -> None:
    """Free the slots and blocks of closed streams whose jobs have ended: a worker may wait for blocks."""
    if client._closed_streams:
        with client._lock:
            closed, client._closed_streams = client._closed_streams, []
            client._closed_streams += [job for job in closed if job._state == PENDING and not client.collect(job)]


def stream_of(client: Client, job: Job[Any], timeout: float | None) -> PartStream[Any]:
    """See Job.stream."""
    if not job._origin.task.yields:
        raise ShmqError(
            f"{job.task_name} returns one value and yields no parts: read job {job.id} with result().\n"
            "A task whose function contains `yield` can be read as a stream."
        )
    collect_closed(client)
    with client._lock:
        if job._state == PENDING:
            check_own(client, job)
            parts_of(client, job)
        is_whole = job._state == VALUE and not hasattr(job, "_parts")
        if not is_whole and job._state not in (ERROR, LOST):
            parts = parts_of(client, job)
            if parts.is_taken:
                raise ShmqError(
                    f"the stream of job {job.id} of {job.task_name} was taken already: its parts are read once.\n"
                    "Keep the iterator that the first stream() returned; threads may share it."
                )
            parts.is_taken = True
        stream: PartStream[Any] = PartStream(client, job, timeout)
        if job._state == PENDING:
            job._parts.ask()
    return stream
