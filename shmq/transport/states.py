"""Slots by state: of many job words only the byte that holds the state, looked at in C.

Without numpy, as all that a producer of small values needs: importing that takes longer than all else together. And who
looks once a second finds the code of numpy, too, in no cache.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress

from shmq.memory.segment import Segment
from shmq.transport.table import DONE, FREE, SCHEDULED, STATE

_FEW_SHIFT = 5  # up to 1/32 of the slots is found one by one, without a step for each of the others


def _bytes_where(holds: Callable[[int], bool]) -> bytes:
    """By the lowest byte of a job word: 1 where it holds for the state."""
    return bytes(holds(byte & STATE) for byte in range(256))


IS_FREE = _bytes_where(lambda state: state == FREE)
IS_UNDER_WAY = _bytes_where(lambda state: FREE < state < DONE)
IS_SCHEDULED = _bytes_where(lambda state: state == SCHEDULED)
HAS_ENDED = _bytes_where(lambda state: state >= DONE)
"""DONE, FAILED or CANCELLED."""


def slots_where(segment: Segment, states: bytes, first: int, last: int) -> list[int]:
    """Those of slots [first, last) in one of the states (a set above), ascending."""
    marks = _marks(segment, states, first, last)
    if marks.count(1) > len(marks) >> _FEW_SHIFT:
        return list(compress(range(first, last), marks))
    found: list[int] = []
    at = marks.find(1)
    while at >= 0:
        found.append(first + at)
        at = marks.find(1, at + 1)
    return found


def count_where(segment: Segment, states: bytes, first: int, last: int) -> int:
    """How many of them there are."""
    return _marks(segment, states, first, last).count(1)


def _marks(segment: Segment, states: bytes, first: int, last: int) -> bytes:
    """A byte per slot: 1 where it is in one of the states."""
    words = segment.layout.offsets["words"]  # of 8 bytes, the lowest first
    return segment.map[words + 8 * first : words + 8 * last : 8].translate(states)
