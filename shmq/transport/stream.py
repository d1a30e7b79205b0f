"""The ring through which the parts of a running job go: a block that its worker fills and its producer empties.

    offset  word      its one writer
    0       stamp     worker    monotonic ns at which the ring was made: tells the attempts of a job apart
    8       capacity  worker    bytes of records the ring holds
    16      produced  worker    bytes put in since then; only grows
    24      wanting   worker    1 = the worker waits for room: ring its bell
    64      consumed  producer  bytes taken out since then; only grows
    128     records: <length u32><kind u32><bytes>, padded to 8; one that reaches the end goes on at the beginning

A part that is long lies in a block of its own: its record has kind BLOCK and names the unit. Such blocks and
those of arrays belong to the job until the part was taken; the worker then gives them back.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from shmq.clock import now_ns
from shmq.memory.fence import new_fence, new_order_fence
from shmq.memory.layout import WORD

RECORDS = 128
"""Offset of the first record: the words of either writer fill a cache line of their own."""

_STAMP, _CAPACITY, _PRODUCED, _WANTING, _CONSUMED = 0, 1, 2, 3, 8
_HEAD = struct.Struct("<II")
_FAR = struct.Struct("<QQ")


def record_bytes(length: int) -> int:
    """Bytes that a part of `length` bytes takes in the ring."""
    return _HEAD.size + (length + 7 & ~7)


def far_part(unit: int, length: int) -> bytes:
    """The record of a part that lies in a block of its own."""
    return _FAR.pack(unit, length)


def where_far(data: bytes) -> tuple[int, int]:
    """(unit, length) of a part that lies in a block of its own. Raises struct.error for a damaged record."""
    unit, length = _FAR.unpack(data)
    return unit, length


class Run(NamedTuple):
    """Parts that are taken together: plain ones that follow each other, or one with blocks."""

    kind: int
    parts: list[bytes]
    end: int  # position behind them


class _Ring:
    """Both sides: the words, and records that may go on at the beginning."""

    def __init__(self, block: memoryview) -> None:
        self._block = block
        self._words = block[:RECORDS].cast(WORD)
        self._order = new_order_fence()
        self._fence = new_fence()

    @property
    def used(self) -> int:
        """Bytes of records that have not been taken."""
        return int(self._words[_PRODUCED] - self._words[_CONSUMED])


class RingWriter(_Ring):
    """The worker's side. Makes the ring in a block that nobody knows of yet."""

    def __init__(self, block: memoryview) -> None:
        super().__init__(block)
        self.capacity = len(block) - RECORDS & ~7
        self._words[_CAPACITY] = self.capacity
        self._words[_PRODUCED] = self._words[_WANTING] = self._words[_CONSUMED] = 0
        self._words[_STAMP] = now_ns()
        self.produced = 0

    @property
    def consumed(self) -> int:
        """How far the reader is."""
        return int(self._words[_CONSUMED])

    def put(self, kind: int, data: bytes) -> bool:
        """Append a part; False when there is no room."""
        size = record_bytes(len(data))
        if self.produced + size - self._words[_CONSUMED] > self.capacity:
            return False
        at = self.produced % self.capacity
        block = self._block
        _HEAD.pack_into(block, RECORDS + at, len(data), kind)  # never cut: positions are multiples of its size
        at += _HEAD.size
        room = self.capacity - at
        if len(data) <= room:
            block[RECORDS + at : RECORDS + at + len(data)] = data
        else:
            block[RECORDS + at : RECORDS + at + room] = data[:room]
            block[RECORDS : RECORDS + len(data) - room] = data[room:]
        if self._order is not None:
            self._order()
        # SYNC POINT: part-visible — the record is complete before `produced` counts it
        self.produced += size
        self._words[_PRODUCED] = self.produced
        return True

    def want_room(self, wanting: int) -> None:
        """Say that this worker waits (1), or waits no more (0)."""
        self._words[_WANTING] = wanting
        if wanting:
            self._fence()  # SYNC POINT: doorbell — "I wait" is visible before the second look


class RingReader(_Ring):
    """The producer's side.

    Raises:
        ValueError: the block holds no ring (a damaged word led here).
    """

    def __init__(self, block: memoryview) -> None:
        super().__init__(block)
        self.stamp = int(self._words[_STAMP])
        self._capacity = int(self._words[_CAPACITY])
        if not 0 < self._capacity <= len(block) - RECORDS or self._capacity % 8 or len(block) < RECORDS:
            raise ValueError(f"a ring of {self._capacity} bytes in a block of {len(block)}: damaged")
        self._consumed = int(self._words[_CONSUMED])

    def has_part(self) -> bool:
        """Is there a part to take?"""
        return bool(self._words[_PRODUCED] != self._consumed)

    def peek(self) -> Run | None:
        """The next parts; they stay until `take`. Raises ValueError for a damaged record."""
        used = self._words[_PRODUCED] - self._consumed
        if not used:
            return None
        if not 0 < used <= self._capacity:
            raise ValueError(f"{used} of {self._capacity} bytes of a ring are filled: damaged")
        if self._order is not None:
            self._order()  # SYNC POINT: part-visible — `produced` before the records
        raw = self._at(self._consumed, used)
        parts: list[bytes] = []
        at = 0
        while at < used:
            length, kind = _HEAD.unpack_from(raw, at)
            end = at + record_bytes(length)
            if end > used:
                raise ValueError(f"a part of {length} bytes at {at} where {used} bytes are filled: damaged")
            if kind and parts:
                break
            parts.append(raw[at + _HEAD.size : at + _HEAD.size + length])
            at = end
            if kind:
                return Run(kind, parts, self._consumed + at)
        return Run(0, parts, self._consumed + at)

    def take(self, run: Run) -> bool:
        """Count the parts as read; True when the worker waits for room and there is enough to wake it.

        Caller must: have pinned the blocks of views that live on.
        """
        if self._order is not None:
            self._order()
        # SYNC POINT: part-read — pins before `consumed`: the worker gives blocks back that lie before it
        self._consumed = run.end
        self._words[_CONSUMED] = run.end
        self._fence()  # SYNC POINT: doorbell — `consumed` is visible before we look whether the worker waits
        return bool(self._words[_WANTING]) and 2 * self.used <= self._capacity

    def _at(self, position: int, size: int) -> bytes:
        at = position % self._capacity
        first = self._block[RECORDS + at : RECORDS + min(at + size, self._capacity)]
        return bytes(first) + bytes(self._block[RECORDS : RECORDS + size - len(first)])
