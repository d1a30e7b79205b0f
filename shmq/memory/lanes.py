"""Lanes: rings of slot numbers, one per (group, row, priority). Hints, never the truth.

    heads[group, row, priority]   moved by the holder of the group's byte
    tails[group, row, priority]   moved by the holder of the row
    rings[group, row, priority, entry & (capacity - 1)] = slot

Positions only grow: empty is `tail == head`, full is `tail - head == capacity`. Read heads
before tails (an old head makes a lane look fuller, never emptier than it is).
"""

from __future__ import annotations

from dataclasses import dataclass

from shmq.memory.layout import LANE_WORDS, PRIORITIES, Shape


@dataclass(frozen=True, slots=True)
class Lane:
    """Flat indices of one lane: `word` into heads and tails, `ring` of its first entry."""

    word: int
    ring: int


def lane(shape: Shape, group: int, row: int, priority: int) -> Lane:
    """The lane of a row (`shape.recovery_row` for recovery) and priority 0 (first) to 4."""
    pair = group * (shape.producers + 1) + row
    return Lane(pair * LANE_WORDS + priority, (pair * PRIORITIES + priority) * shape.slots_per_producer)


def row_lanes(shape: Shape, row: int) -> list[tuple[int, Lane]]:
    """(group, lane) of every lane of a row."""
    return [(g, lane(shape, g, row, p)) for g in range(shape.groups) for p in range(PRIORITIES)]
