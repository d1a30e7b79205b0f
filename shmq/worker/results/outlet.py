"""Where the parts of a running generator go: kept here until somebody asks, then through a ring.

    yield ─▶ encode ─▶ kept ──(nobody asked)──▶ at the end: the list that `result()` returns
                        └─────(asked)─────────▶ ring in a block ─▶ the reader of `stream()`

A part is encoded when it is yielded, so the task may change the object afterwards. While somebody reads, parts
move on as there is room; a task goes on when none is left here. See `shmq.transport.stream` for the ring.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec

from shmq.errors import TooLarge, WorkerLost
from shmq.memory.blocks import PART, BlockPool
from shmq.memory.fence import new_fence
from shmq.transport.stream import RECORDS, RingWriter, far_part, record_bytes
from shmq.transport.table import GENERATION_SHIFT
from shmq.wire.codec import (
    ENCODING_ERRORS,
    INLINE_ARRAY_BYTES,
    Encoded,
    NeedsBlocks,
    PartEncoder,
    PoolFull,
    explain,
    needs_blocks,
)
from shmq.wire.header import BLOCK, FLAGS_OFFSET, FORGET, REFERENCES, result_word
from shmq.worker.results.outcome import StreamClosed
from shmq.worker.results.room import WANTS, ask
from shmq.worker.seat import Seat

RING_BYTES = 64 * 1024
_LEAST_WINDOW_BYTES = 256 * 1024
_SHARE_OF_BLOCKS = 16
POOL_PATIENCE_S = 30.0
READER_PATIENCE_S = 30.0

Block = tuple[int, int]  # first unit, bytes


@dataclass(slots=True)
class _Part:
    kind: int
    data: bytes
    blocks: list[Block]


class Outlets:
    """The outlets of one worker, by slot, and what they share."""

    def __init__(self, seat: Seat, blocks: BlockPool) -> None:
        segment = seat.segment
        self.asks, self.reads, self.cancels, self.streams = (
            segment.view(name) for name in ("asks", "reads", "cancels", "streams")
        )
        self.payload, self.stride = segment.view("payload"), segment.shape.slot_bytes
        self.seat, self.blocks, self.bells = seat, blocks, seat.bells
        self.encoder = PartEncoder(blocks)
        self.encode = msgspec.msgpack.Encoder(enc_hook=needs_blocks).encode
        self.fence = new_fence()
        self.row_shift = segment.shape.slots_per_producer.bit_length() - 1
        budget = segment.shape.units * segment.shape.unit_bytes
        self.ring_bytes = max(min(RING_BYTES, blocks.largest_bytes), blocks.unit_bytes)
        self.window_bytes = max(budget // _SHARE_OF_BLOCKS, _LEAST_WINDOW_BYTES)
        self._open: dict[int, Outlet] = {}

    def open(self, slot: int, word: int, most_kept: int | None, *, is_single: bool = False) -> Outlet:
        """The outlet of a job that starts.

        Args:
            most_kept: bytes kept while nobody asks; None: what a result can hold.
            is_single: there is one part only.

        Raises:
            WorkerLost: a part of a former attempt was read already.
            StreamClosed: the job was cancelled before it started.
        """
        generation = word >> GENERATION_SHIFT
        self.streams[slot] = 0
        self.fence()  # SYNC POINT: stream-once — a former attempt's ring is gone before we look what was read of it
        if self.reads[slot] == generation:
            raise WorkerLost(
                "the worker died after parts of its stream had been read; they are not made a second time.\n"
                "Submit the job again, and drop the parts you have."
            )
        self.blocks.free_parts(slot, generation)
        forgets = bool(self.payload[slot * self.stride + FLAGS_OFFSET] & FORGET)
        outlet = self._open[slot] = Outlet(self, slot, generation, most_kept, forgets=forgets, is_single=is_single)
        outlet.check_cancelled()
        return outlet

    def was_read(self, slot: int, word: int) -> bool:
        """Has the reader taken a part of this job?"""
        return bool(self.reads[slot] == word >> GENERATION_SHIFT)

    def is_streamed(self, slot: int, word: int) -> bool:
        """Is there a ring whose rest may be unread?"""
        return bool(self.streams[slot] >> 32 == word >> GENERATION_SHIFT)

    def end(self, slot: int) -> Outlet | None:
        """Forget the outlet of a job that has ended well or finally failed."""
        return self._open.pop(slot, None)

    def drop(self, slot: int) -> None:
        """The attempt is to be made again: nothing of this one is left."""
        outlet = self._open.pop(slot, None)
        if outlet is not None:
            outlet.drop()


class Outlet:
    """Where the parts of one job go."""

    def __init__(
        self, shared: Outlets, slot: int, generation: int, most_kept: int | None, *, forgets: bool, is_single: bool
    ) -> None:
        self._shared = shared
        self._slot = slot
        self._generation = generation
        self._most_kept = shared.blocks.largest_bytes if most_kept is None else most_kept
        # a chunk of `stream` will be read, in its turn; until then it must hold no block that others wait for
        self._reader_patience_s = READER_PATIENCE_S if most_kept is None else float("inf")
        self._most_inline = INLINE_ARRAY_BYTES if most_kept is None else float("inf")
        self._forgets = forgets
        self._is_of_chunk = most_kept is not None
        self._is_single = is_single
        self._kept: deque[_Part] = deque()
        self._kept_bytes = 0
        self.result: int | None = None  # result word of a list that `finish` has stored
        self._unplaced: tuple[Any, ...] = ()  # a part whose arrays found no block yet
        self._ring: RingWriter | None = None
        self._wanted_bytes = 0
        self._reserved: Block | None = None  # for the ring, so that kept arrays never leave it no room
        self._inline_bytes = 0  # a longer part gets a block of its own
        self._window_bytes: float = shared.window_bytes
        self._sent: deque[tuple[int, list[Block]]] = deque()  # position behind the part, its blocks
        self._sent_bytes = 0
        self._to_free: list[Block] = []
        self.is_pool_full = False

    @property
    def is_asked(self) -> bool:
        """Is the job read as a stream?"""
        return bool(self._shared.asks[self._slot] == self._generation)

    def check_cancelled(self) -> None:
        """Raise StreamClosed when the stream was closed, or the job cancelled."""
        if self._shared.cancels[self._slot] == self._generation:
            raise StreamClosed

    @property
    def was_read(self) -> bool:
        """Has the reader taken a part?"""
        return bool(self._shared.reads[self._slot] == self._generation)

    def pool_usage(self) -> str:
        """Who holds the blocks, in words."""
        return self._shared.blocks.usage()

    @property
    def is_holding(self) -> bool:
        """Are there parts of which nobody has asked yet?"""
        return self._ring is None and bool(self._kept)

    # -- the way of a part -------------------------------------------------------------

    def offer(self, value: Any) -> bool:
        """Take a part; True when the task may go on, else whoever drives it waits until `resume`."""
        if self._forgets:
            return True
        try:
            data = self._shared.encode(value)
        except (NeedsBlocks, *ENCODING_ERRORS):  # arrays, or an explanation: the slow way
            self._unplaced = (value,)
            return self.resume()
        ring = self._ring
        if ring is not None and not self._kept and len(data) <= self._inline_bytes and ring.put(0, data):
            self._notify()
            return True
        self._keep(_Part(0, data, []))
        return self.flush()

    def resume(self) -> bool:
        """Go on with what had no room; True when the task may go on."""
        if not self._unplaced:
            return self.flush()
        shared = self._shared
        if self._ring is None and self._reserved is None and not self._is_of_chunk:
            self._reserved = self._allocate(shared.ring_bytes)
            if self._reserved is None:
                return False
        encoder = shared.encoder
        encoder.slot, encoder.generation, encoder.most_inline = self._slot | PART, self._generation, self._most_inline
        try:
            data = encoder.encode_part(self._unplaced[0])
        except PoolFull:
            self.flush()  # what moves on makes room
            self.is_pool_full = True
            return False
        except ENCODING_ERRORS as error:
            raise explain(error, f"a part of the result of {self._shared.seat.name_in(self._slot)}") from error
        self._unplaced = ()
        self._keep(_Part(REFERENCES if encoder.used_blocks else 0, data, encoder.placed))
        return self.flush()

    def _keep(self, part: _Part) -> None:
        largest = self._shared.blocks.largest_bytes
        if len(part.data) > largest:
            raise TooLarge(
                f"{self._shared.seat.name_in(self._slot)}: a part of {len(part.data)} bytes does not fit a block: the "
                f"largest is {largest} bytes.\n"
                "Yield smaller parts, or raise [memory] block_budget_bytes."
            )
        self._kept.append(part)
        self._kept_bytes += len(part.data)

    def flush(self) -> bool:
        """Move on what there is room for; True when the task may go on."""
        if self._ring is None:
            if not self.is_asked:
                self.is_pool_full = False
                return self._kept_bytes <= self._most_kept
            if not self._kept or self._is_whole():
                return True
            if not self._open_ring(self._shared.ring_bytes):
                return False
            assert self._ring is not None
            self._inline_bytes = self._ring.capacity // 4 - record_bytes(0)
        self._reclaim()
        has_sent = False
        while self._kept and self._send(self._kept[0]):
            self._kept_bytes -= len(self._kept.popleft().data)
            has_sent = True
        if has_sent:
            self._notify()
        return not self._kept

    def _is_whole(self) -> bool:
        """Are the parts the job's result, which needs no ring? It might lie in the way of the block of a large one."""
        return self._is_single and len(_array_head(1)) + self._kept_bytes <= self._shared.blocks.largest_bytes

    def look(self) -> None:
        """As `flush`, between two bytecodes of the task: what is wrong shows at the next part."""
        try:
            self.flush()
        except TooLarge:
            pass  # raised again by the flush after the next part

    def _notify(self) -> None:
        self._shared.fence()  # SYNC POINT: doorbell — parts visible before we look who waits
        self._shared.bells.notify_producer(self._slot >> self._shared.row_shift)

    def _allocate(self, nbytes: int) -> Block | None:
        """All of a block that holds `nbytes`."""
        pool = self._shared.blocks
        size = pool.units_for(nbytes) * pool.unit_bytes
        unit = pool.allocate(size, self._slot | PART, self._generation)
        self.is_pool_full = unit is None
        return None if unit is None else (unit, size)

    def _open_ring(self, nbytes: int) -> bool:
        shared, block = self._shared, self._reserved
        if block is None or block[1] < nbytes:
            block = self._allocate(nbytes) or block
        if block is None:
            return False
        self._reserved, (unit, size) = None, block
        self._ring = RingWriter(shared.blocks.bytes_at(unit, size))
        # SYNC POINT: ring-visible — the ring's words before the word that names it
        shared.streams[self._slot] = self._generation << 32 | unit + 1
        return True

    def _send(self, part: _Part) -> bool:
        """Put one part into the ring, by way of a block if it is long; False when it must wait."""
        assert self._ring is not None
        length = len(part.data)
        is_long = not part.kind & BLOCK and length > self._inline_bytes
        needed = self._taken_by(part.blocks) + (self._taken_by([(0, length)]) if is_long else 0)
        if needed and self._sent_bytes and self._sent_bytes + needed > self._window_bytes:
            self.is_pool_full = False
            return False
        if is_long:
            blocks = self._shared.blocks
            unit = blocks.allocate(length, self._slot | PART, self._generation)
            self.is_pool_full = unit is None
            if unit is None:
                return False
            blocks.bytes_at(unit, length)[:] = part.data
            self._kept_bytes -= length
            part.blocks.append((unit, length))
            part.kind, part.data = part.kind | BLOCK, far_part(unit, length)
            self._kept_bytes += len(part.data)
        if not self._ring.put(part.kind, part.data):
            self.is_pool_full = False
            return False
        if part.blocks:
            self._sent.append((self._ring.produced, part.blocks))
            self._sent_bytes += needed
        return True

    def _taken_by(self, blocks: list[Block]) -> int:
        """Bytes of shared memory, which are more than those of the parts in it."""
        pool = self._shared.blocks
        return sum(pool.units_for(nbytes) for _, nbytes in blocks) * pool.unit_bytes

    def _reclaim(self) -> None:
        """Give back the blocks of parts that were taken; views of them live by the reader's pins."""
        assert self._ring is not None
        # SYNC POINT: part-read — `consumed` is read before the tags are cleared
        consumed = self._ring.consumed
        while self._sent and self._sent[0][0] <= consumed:
            blocks = self._sent.popleft()[1]
            self._sent_bytes -= self._taken_by(blocks)
            self._to_free += blocks
        if self._to_free:
            self._to_free = [block for block in self._to_free if not self._shared.blocks.free(*block)]

    # -- waiting -----------------------------------------------------------------------

    def want_room(self, wanting: int) -> None:
        """Ask the reader to ring this worker once there is room (1), holders of blocks to let go; no more (0)."""
        if self.is_pool_full and wanting and not self._wanted_bytes:
            self._want_blocks(self._shared.blocks.unit_bytes)
        elif not wanting and self._wanted_bytes:
            self._want_blocks(0)
        if self._ring is not None:
            self._ring.want_room(wanting)
        elif wanting:
            self._shared.fence()  # SYNC POINT: doorbell — whoever asks rings the worker

    def _want_blocks(self, nbytes: int) -> None:
        """Say how many bytes are wanted, at least; the true number is known to the encoder only."""
        self._shared.seat.row[WANTS] += nbytes - self._wanted_bytes
        self._wanted_bytes = nbytes
        if nbytes:
            ask(self._shared.seat, self._shared.fence)

    def patience_s(self) -> float:
        """How long to wait for what is missing now: for a reader who has parts to take, for ever."""
        if self.is_pool_full:
            return float("inf") if self._ring is not None and self._ring.used else POOL_PATIENCE_S
        return float("inf") if self.is_asked else self._reader_patience_s

    # -- the end -----------------------------------------------------------------------

    def finish(self) -> bool:
        """True when all parts are where the reader finds them, or will be with the job's result.

        A chunk of `stream` for whose results there is no block at present waits, at the latest for its turn.
        """
        if not self.resume():
            return False
        if not self._is_of_chunk or self._ring is not None or self._forgets or self.result is not None:
            return True
        data = self._list()
        blocks = self._shared.blocks
        self.is_pool_full = False
        if len(data) > blocks.largest_bytes:
            return False
        unit = blocks.allocate(len(data), self._slot, self._generation)
        if unit is None:
            self.is_pool_full = self.is_asked  # who waits for this one makes room; before its turn nobody has to
            return False
        blocks.bytes_at(unit, len(data))[:] = data
        self.result = result_word(len(data), unit, BLOCK)
        return True

    def whole(self) -> Encoded | None:
        """All parts as one list, when nobody asked for them; None when they went through the ring."""
        if self._ring is not None:
            return None
        return Encoded(self._list(), has_references=any(part.kind & REFERENCES for part in self._kept))

    def _list(self) -> bytes:
        return _array_head(len(self._kept)) + b"".join(part.data for part in self._kept)

    def surrender(self) -> None:
        """The task failed: whoever asks later still gets the parts before that, as far as a block holds them."""
        if self._ring is not None or not self._kept:
            return
        size = RECORDS + sum(record_bytes(len(part.data)) for part in self._kept)
        if not self._open_ring(min(size, self._shared.blocks.largest_bytes)):
            return
        assert self._ring is not None
        self._inline_bytes, self._window_bytes = self._ring.capacity - record_bytes(0), float("inf")
        while self._kept and self._send(self._kept[0]):
            self._kept.popleft()

    def drop(self) -> None:
        """Give every block back; what the reader has not taken is lost."""
        shared = self._shared
        shared.streams[self._slot] = 0
        shared.fence()  # SYNC POINT: stream-once — no ring is named any more when its block is free
        shared.blocks.free_parts(self._slot, self._generation)
        self._ring, self._kept = None, deque()


def _array_head(count: int) -> bytes:
    """msgpack: the beginning of an array of `count` items."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")
