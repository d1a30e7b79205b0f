"""Slots of a row by state: of many job words only the byte that holds the state, looked at in C.

Without numpy, as all that a producer of small values needs: importing that takes longer than all else together.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress

from shmq.memory.segment import Segment
from shmq.transport.table import DONE, FREE, STATE


def _bytes_where(holds: Callable[[int], bool]) -> bytes:
    """By the lowest byte of a job word: 1 where it holds for the state."""
    return bytes(holds(byte & STATE) for byte in range(256))


IS_FREE = _bytes_where(lambda state: state == FREE)
IS_UNDER_WAY = _bytes_where(lambda state: FREE < state < DONE)
HAS_ENDED = _bytes_where(lambda state: state >= DONE)
"""DONE, FAILED or CANCELLED."""


def slots_where(segment: Segment, holds: bytes, first: int, last: int) -> list[int]:
    """Those of slots [first, last), ascending, for whose state it `holds`: IS_FREE, IS_UNDER_WAY or HAS_ENDED."""
    return list(compress(range(first, last), _marks(segment, holds, first, last)))


def count_where(segment: Segment, holds: bytes, first: int, last: int) -> int:
    """How many of them there are."""
    return _marks(segment, holds, first, last).count(1)


def _marks(segment: Segment, holds: bytes, first: int, last: int) -> bytes:
    """A byte per slot: 1 where it holds."""
    words = segment.layout.offsets["words"]  # of 8 bytes, the lowest first
    return segment.map[words + 8 * first : words + 8 * last : 8].translate(holds)
