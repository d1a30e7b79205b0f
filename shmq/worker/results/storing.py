"""Results: behind the arguments where they fit, else in blocks; a generator's where its parts went."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from shmq.errors import ShmqError, TooLarge
from shmq.memory.blocks import BlockPool
from shmq.transport.table import GENERATION_SHIFT
from shmq.wire.codec import ENCODING_ERRORS, Encoder, NeedsBlocks, PoolFull, explain, needs_blocks
from shmq.wire.failure import describe
from shmq.wire.header import BLOCK, FORGET, INLINE, MANY, REFERENCES, STREAMED, Header, result_word
from shmq.worker.results.failing import Failing
from shmq.worker.results.outlet import Outlet, Outlets
from shmq.worker.results.room import WaitForRoom
from shmq.worker.seat import END, Seat
from shmq.worker.slots import Slots


class Storing:
    """Stores for one worker what its jobs return. Every method that ends a job gives the job word to store."""

    def __init__(
        self, seat: Seat, blocks: BlockPool, slots: Slots, encoder: Encoder, outlets: Outlets, failing: Failing
    ) -> None:
        self._seat, self._blocks, self._slots = seat, blocks, slots
        self._encoder, self._outlets, self._failing = encoder, outlets, failing
        self.encode = msgspec.msgpack.Encoder(enc_hook=needs_blocks).encode
        """For what needs no block; raises NeedsBlocks for the rest."""

    def finish(self, slot: int, running: int, value: Any, head: Header) -> int:
        """Store a result of any kind. Raises PoolFull as `finish_large` does."""
        try:
            if self._slots.put(slot, head, self.encode(value)):
                return running + END
        except (NeedsBlocks, *ENCODING_ERRORS):
            pass  # arrays, or an explanation: the way through blocks, below
        return self.finish_large(slot, running, value)

    def finish_when_room(self, slot: int, running: int, value: Any) -> int:
        """Store a result that needs the pool, once it has room."""
        wait: WaitForRoom | None = None
        try:
            while True:
                try:
                    return self.finish_large(slot, running, value)
                except PoolFull:
                    wait = wait or self.wait_for_room(slot, running, self._seat.deadline_ns)
                    time.sleep(wait.pause_s())
        except ShmqError as error:
            return self._failing.fail(slot, running, error)
        finally:
            if wait is not None:
                wait.end()

    def wait_for_room(self, slot: int, running: int, deadline_ns: int) -> WaitForRoom:
        """What to do between two tries of `finish_large`, the last of which just found no room."""
        task = self._seat.name_in(slot)
        return WaitForRoom(self._seat, self._blocks, slot, running, task, self._encoder.wanted_bytes, deadline_ns)

    def finish_large(self, slot: int, running: int, value: Any) -> int:
        """Store a result that needs the pool, or that a generator yielded.

        Raises:
            PoolFull: there is no room at present. Nothing is stored.
        """
        if isinstance(value, Outlet):
            stored, value = value.result, value.whole()
            if stored is None and value is None:  # the parts went through the ring
                stored = result_word(0, 0, STREAMED)
            if stored is not None:
                self._outlets.end(slot)
                self._slots.results[slot] = stored
                return running + END
        try:
            try:
                self._place(slot, running, value)
            except ENCODING_ERRORS:
                if self._slots.header(slot).kind != MANY:
                    raise
                self._place(slot, running, self._what_can_travel(slot, value))
        except PoolFull:
            if not self._slots.header(slot).flags & FORGET:  # else nobody will read it
                raise
        except ENCODING_ERRORS as error:
            return self._failing.fail(slot, running, explain(error, f"the result of {self._seat.name_in(slot)}"))
        except Exception as error:
            return self._failing.fail(slot, running, error)
        self._outlets.end(slot)
        return running + END

    def _place(self, slot: int, running: int, value: Any) -> None:
        """Store a result that needs the pool. Raises PoolFull when there is no room at present."""
        encoder = self._encoder
        encoder.begin(slot, running >> GENERATION_SHIFT)
        try:
            data = encoder.encode(value)
            has_references = REFERENCES if encoder.used_blocks else 0
            if not self._slots.put(slot, self._slots.header(slot), data, INLINE | has_references):
                unit = encoder.place_message(data)
                self._slots.results[slot] = result_word(len(data), unit, BLOCK | has_references)
        except PoolFull:
            encoder.give_back()
            if encoder.wanted_bytes > self._blocks.budget_bytes:
                raise TooLarge(
                    f"the result of {self._seat.name_in(slot)} takes more than {encoder.wanted_bytes} bytes of blocks, "
                    f"all together are {self._blocks.budget_bytes}.\n"
                    "Return less (a smaller chunk_size, a path), or raise [memory] block_budget_bytes."
                ) from None
            raise
        except ENCODING_ERRORS:
            encoder.give_back()
            raise

    def _what_can_travel(self, slot: int, answer: Any) -> Any:
        """A chunk's answer in which only those calls fail whose values cannot travel."""
        run_ns, values, failures = answer
        indices = [i for i in range(len(values) + len(failures)) if i not in failures]
        kept = []
        for i, value in zip(indices, values, strict=True):
            try:
                self._encoder.encode(value)
            except PoolFull:
                kept.append(value)
            except ENCODING_ERRORS as error:
                failures[i] = describe(explain(error, f"the result of {self._seat.name_in(slot)}"))
            else:
                kept.append(value)
            finally:
                self._encoder.give_back()  # this was but a try
        return run_ns, kept, failures
