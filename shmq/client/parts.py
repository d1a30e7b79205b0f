"""The reader's end of a stream: parts out of the ring of a running job, or out of the list of an ended one.

    asks = generation ─▶ ring named? ─▶ peek ─▶ decode, pin ─▶ reads = generation ─▶ still that ring? ─▶ take
                              │ empty
                              ▼
                     job ended? ─▶ collect: what it raised, or the end        else wait for the worker's ring

`Parts` belongs to the handle and knows the ring; `PartStream` is what the user iterates, and closes.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from shmq.client import resolve
from shmq.client.handle import ERROR, PENDING, RAW, RAW_ERROR, VALUE
from shmq.errors import ReentrantSubmit, ShmqError, WorkerLost
from shmq.memory.doorbell import deadline as deadline_after
from shmq.memory.fence import new_fence
from shmq.transport.stream import RECORDS, RingReader, where_far
from shmq.transport.table import DONE, GENERATION_SHIFT, LEASED, RUNNING, STATE, owner_of
from shmq.wire.codec import DECODING_ERRORS
from shmq.wire.header import BLOCK, REFERENCES

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job

T = TypeVar("T")
_LOW = 0xFFFFFFFF


class Nothing(Exception):
    """No part has come yet."""


class Parts:
    """The unread parts of one job. Caller must: hold the client's lock for all but `ask` and `close`."""

    def __init__(self, client: Client, job: Job[Any], decode: Callable[[bytes], Any]) -> None:
        segment = client.segment
        self._client, self._decode = client, decode
        self._slot, self._generation = job._slot, job._generation
        self._words, self._streams, self._asks, self._reads, self._cancels = (
            segment.view(name) for name in ("words", "streams", "asks", "reads", "cancels")
        )
        self._bells = client._publisher.bells
        self._fence = new_fence()
        self._named = 0  # the word of `streams` whose ring this is
        self._ring: RingReader | None = None
        self._has_read = False
        self.is_closed = False
        self.is_taken = False  # by `stream`; what it reads, nobody else can read again
        self.left: deque[Any] = deque()  # out of the ring already

    def ask(self) -> None:
        """From now on the worker lets parts out as they come."""
        self._asks[self._slot] = self._generation
        self._fence()  # SYNC POINT: doorbell — whoever keeps parts looks at `asks` when rung
        self._ring_worker()

    def close(self) -> None:
        """Ask that the job ends at its next yield. Plain stores: safe in finalizers."""
        self.is_closed = True
        self._cancels[self._slot] = self._generation
        self._fence()  # SYNC POINT: doorbell
        self._ring_worker()

    def next(self) -> Any:
        """The next part, with its blocks pinned as long as it lives.

        Raises:
            Nothing: there is none at present.
            WorkerLost: the attempt is over of which parts were read.
        """
        if not self.left:
            self._fill()
        return self.left.popleft()

    def _fill(self) -> None:
        """Take the parts that come next out of the ring. Raises as `next` does."""
        while True:
            state = self._words[self._slot] & STATE
            if not self._has_read and state != RUNNING and state < DONE:
                raise Nothing  # to be made again: what a former attempt has left is nobody's
            named = self._streams[self._slot]
            if named != self._named or self._ring is None:
                self._open(named)
            assert self._ring is not None
            try:
                run = self._ring.peek()
                if run is None:
                    raise Nothing
                values = [self._value(run.kind, data) for data in run.parts]
            except (ShmqError, ValueError, struct.error):
                if self._streams[self._slot] == named:
                    raise
                continue  # the worker dropped that ring while we looked
            if self._claim(named):
                if self._ring.take(run):
                    self._ring_worker()
                self.left += values
                return

    def has_part(self) -> bool:
        """Would `next` give a part, or say what is wrong?"""
        if self.left or self._ring is None or self._streams[self._slot] != self._named:
            return bool(self.left) or self._streams[self._slot] >> 32 == self._generation
        return self._ring.has_part()

    def rescue(self) -> None:
        """Move all parts out of the ring: the slot is about to be freed."""
        try:
            while not self.is_closed:
                self._fill()
        except Nothing:
            pass

    def check_attempt(self, word: int) -> None:
        """Raise WorkerLost when the job is about to run a second time although parts were read."""
        if self._has_read and word & STATE not in (LEASED, RUNNING) and word & STATE < DONE:
            raise _lost()

    # -- inside ------------------------------------------------------------------------

    def _open(self, named: int) -> None:
        """The ring of the present attempt."""
        if self._has_read:
            raise _lost()
        if named >> 32 != self._generation or not named & _LOW:
            raise Nothing
        # SYNC POINT: ring-visible — the word that names the ring before its words
        blocks, unit = self._client._blocks, (named & _LOW) - 1
        capacity = int.from_bytes(blocks.bytes_at(unit, RECORDS)[8:16], "little")
        self._ring, self._named = RingReader(blocks.bytes_at(unit, RECORDS + capacity)), named

    def _value(self, kind: int, data: bytes) -> Any:
        if kind & BLOCK:
            unit, length = where_far(data)
            data = bytes(self._client._blocks.bytes_at(unit, length))
        try:
            value = self._decode(data)
        except DECODING_ERRORS as error:
            raise ShmqError(f"a part of job {self._generation:x}-{self._slot:x} cannot be read: {error!r}") from error
        if kind & REFERENCES:
            self._client._decoder.pin_living_views()
        return value

    def _claim(self, named: int) -> bool:
        """May the part be handed out? Not when the worker has dropped the ring meanwhile.

        The worker that starts the job again takes the ring's name away, fences, looks at `reads`; we write
        `reads`, fence, look at the name: one of the two sees the other.
        """
        if not self._has_read:
            self._reads[self._slot] = self._generation
        self._fence()  # SYNC POINT: stream-once
        if self._streams[self._slot] == named:
            self._has_read = True
            return True
        if not self._has_read:
            self._reads[self._slot] = 0
        return False

    def _ring_worker(self) -> None:
        word = self._words[self._slot]
        if word & STATE == RUNNING and word >> GENERATION_SHIFT == self._generation:
            row = owner_of(word)
            if row < self._client.segment.shape.workers:
                self._bells.worker(row).notify()


class PartStream(Generic[T]):
    """The parts of one job as an iterator, also for `async for`. Made by `Job.stream`.

    Concurrency: threads may share it; each part goes to one of them.
    """

    def __init__(self, client: Client, job: Job[Any], timeout: float | None) -> None:
        self._client, self._job, self._timeout = client, job, timeout
        self._pid = os.getpid()
        self._keeps = job._state in (VALUE, ERROR)  # `result()` was called before
        self._rest: deque[Any] | None = None  # of a job that ended before anybody asked for parts
        self._left: deque[Any] = job._parts.left if hasattr(job, "_parts") else deque()
        self.is_over = False  # read to its end, failed or closed

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next part; waits for it."""
        try:
            return self._left.popleft()  # type: ignore[no-any-return]
        except IndexError:
            pass
        found: list[T] = []
        if not self._wait(lambda: self._step(found), deadline_after(self._timeout)):
            raise TimeoutError(
                f"no part of job {self._job.id} of {self._job.task_name} came in {self._timeout} s; it goes on"
            )
        if not found:
            raise StopIteration
        return found[0]

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
            with self._calling(wake):
                if self._is_ready():
                    continue
                left_s = give_up - loop.time()
                try:
                    await asyncio.wait_for(arrived.wait(), None if left_s == float("inf") else max(left_s, 0.0))
                except TimeoutError:
                    raise TimeoutError(f"no part of job {self._job.id} came in {self._timeout} s; it goes on") from None
        if not found:
            raise StopAsyncIteration
        return found[0]

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
        with resolve.waiting_for(self._job):
            return self._client._waiter.wait(is_ready, give_up)

    @contextlib.contextmanager
    def _calling(self, wake: Callable[[], None]) -> Iterator[None]:
        """Meanwhile the client's thread calls `wake` whenever a part may have come."""
        client, entry = self._client, (self._is_ready, wake)
        with client._lock:
            client._part_wakers.add(entry)
            client._ensure_poller()
        try:
            yield
        finally:
            client._part_wakers.discard(entry)

    def _step(self, found: list[T]) -> bool:
        """Take the next part if there is one; True when there is, or when none will come. Raises the job's error."""
        client, job = self._client, self._job
        with client._lock:
            if found or self.is_over:  # asked twice: a part is taken once
                return True
            if self._pid != os.getpid():
                client._explain_foreign(job)
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
            client._check_own(job)
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
        if job._state in (RAW_ERROR, ERROR):
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

    def _is_ready(self) -> bool:
        job = self._job
        if job._state != PENDING or job._parts.has_part():
            return True
        word = self._client._words[job._slot]
        return bool(word & STATE >= DONE or word >> GENERATION_SHIFT != job._generation)


def _lost() -> WorkerLost:
    return WorkerLost(
        "the worker died, or was stopped, after parts of the stream had been read; they are not made a second time.\n"
        "Submit the job again, and drop the parts you have."
    )


def parts_of(client: Client, job: Job[Any]) -> Parts:
    """The unread parts of a pending job, made on first use. Caller must: hold the client's lock."""
    if not hasattr(job, "_parts"):
        job._parts = Parts(client, job, client._registry.decoder(client._decoder, resolve.PartOf(job._origin.task)))
    return job._parts


def collect_closed(client: Client) -> None:
    """Free the slots and blocks of closed streams whose jobs have ended: a worker may wait for blocks."""
    if client._closed_streams:
        with client._lock:
            closed, client._closed_streams = client._closed_streams, []
            client._closed_streams += [job for job in closed if job._state == PENDING and not client.collect(job)]


def rescue(client: Client, job: Job[Any], state: int) -> bool:
    """The slot is about to be freed: its unread parts move into the handle. True when an error follows them."""
    try:
        parts_of(client, job).rescue()
    except Exception as error:
        job._outcome, job._state = error, ERROR
        return False
    if state == DONE:  # what `result` gives: the parts were, or will be, handed out one by one
        job._outcome, job._state = None, VALUE
    return state != DONE


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
            client._check_own(job)
            parts_of(client, job)
        is_whole = job._state == VALUE and not hasattr(job, "_parts")
        if not is_whole and job._state != ERROR:
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
