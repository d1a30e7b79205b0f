"""What the slot of a job holds: its header, its message, and behind them the result."""

from __future__ import annotations

from shmq.memory.blocks import BlockPool
from shmq.memory.segment import Segment
from shmq.wire.header import HEADER, HEADER_BYTES, INLINE, Header, result_room, result_word


class Slots:
    """The slots as one worker reads and fills them. Caller must: own the slot's job word."""

    def __init__(self, segment: Segment, blocks: BlockPool) -> None:
        self.results = segment.view("results")
        self._payload, self._stride = segment.view("payload"), segment.shape.slot_bytes
        self._blocks = blocks

    def header(self, slot: int) -> Header:
        """The header of the job in a slot."""
        return Header._make(HEADER.unpack_from(self._payload, slot * self._stride))

    def message(self, slot: int, head: Header) -> bytes:
        """A private copy of the job's message."""
        if head.block:
            return bytes(self._blocks.bytes_at(head.block - 1, head.length))
        at = slot * self._stride + HEADER_BYTES
        return bytes(self._payload[at : at + head.length])

    def room(self, head: Header) -> tuple[int, int]:
        """(offset, capacity) of a result behind the arguments."""
        return result_room(self._stride, 0 if head.block else head.length)

    def put(self, slot: int, head: Header, data: bytes, kind: int = INLINE) -> bool:
        """Store an encoded result behind the arguments; False when it does not fit there."""
        at, room = self.room(head)
        if len(data) > room:
            return False
        from_ = slot * self._stride + at
        self._payload[from_ : from_ + len(data)] = data
        self.results[slot] = result_word(len(data), at, kind)
        return True
