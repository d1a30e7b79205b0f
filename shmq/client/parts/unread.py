"""The parts of one job that nobody has read yet, out of the ring of a running job.

    asks = generation ─▶ ring named? ─▶ peek ─▶ decode, pin ─▶ reads = generation ─▶ still that ring? ─▶ take
                              │ empty
                              ▼
                     job ended? ─▶ collect: what it raised, or the end        else wait for the worker's ring

`Parts` belongs to the handle and knows the ring; `PartStream` is what the user iterates, and closes.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.client.handle import ERROR, VALUE
from shmq.client.submitting.kinds import PartOf
from shmq.errors import ShmqError, WorkerLost
from shmq.memory.fence import new_fence
from shmq.transport.stream import RECORDS, RingReader, where_far
from shmq.transport.table import DONE, GENERATION_SHIFT, LEASED, RUNNING, STATE, owner_of
from shmq.wire.codec import DECODING_ERRORS
from shmq.wire.header import BLOCK, REFERENCES

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job

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


def parts_of(client: Client, job: Job[Any]) -> Parts:
    """The unread parts of a pending job, made on first use. Caller must: hold the client's lock."""
    if not hasattr(job, "_parts"):
        job._parts = Parts(client, job, client._registry.decoder(client._decoder, PartOf(job._origin.task)))
    return job._parts


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


def _lost() -> WorkerLost:
    return WorkerLost(
        "the worker died, or was stopped, after parts of the stream had been read; they are not made a second time.\n"
        "Submit the job again, and drop the parts you have."
    )
