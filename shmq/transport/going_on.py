"""Does a producer go on submitting without reading? Told from its lane alone, by whoever is about to claim from it.

Who goes on is best served by one worker on another core that looks again by itself; who waits for each job, at once.
"""

from __future__ import annotations

from shmq.memory.lanes import lane as lane_of
from shmq.memory.layout import PRIORITIES, PRODUCER, PRODUCER_WORDS
from shmq.memory.segment import Segment
from shmq.transport.table import FREE, STATE
from shmq.wire.header import CALL_WORD, FLAGS_SHIFT, FORGET, SUBMITTED_WORD

_SOON_NS = 250_000
"""From a job to the next but one, of a producer that goes on. Who comes less often is best served on its core."""
_FORGOTTEN = FORGET << FLAGS_SHIFT
_WAITING, _POLLING, _WAITS = PRODUCER["waiting"], PRODUCER["polling"], PRODUCER["waits"]


class GoingOn:
    """What one worker sees of the producers in the lanes of its group. Hints: read without the group byte."""

    def __init__(self, segment: Segment, group: int) -> None:
        shape = segment.shape
        self._recovery_row, self._slots, self._capacity = shape.recovery_row, shape.slots, shape.slots_per_producer
        self._lanes = [lane_of(shape, group, row, p) for row in range(shape.producers) for p in range(PRIORITIES)]
        self._heads, self._rings, self._words = (segment.view(name) for name in ("heads", "rings", "words"))
        self._producers = segment.view("producer_rows")
        self._submitted, self._calls = segment.slot_words(SUBMITTED_WORD), segment.slot_words(CALL_WORD)
        self._waits = [0] * shape.producers  # by row: its last wait, when we looked

    def sees(self, lane: int) -> bool:
        """Does the producer of the group's lane (row * PRIORITIES + priority) go on?

        The two jobs before the next one are not FREE, or it is one that nobody reads (`forget`: FREE as soon as it has
        run); the three came soon after each other, and it has begun no wait since it was last asked about: who keeps
        few under way waits for each in its turn.
        """
        row, mask = lane // PRIORITIES, self._capacity - 1
        if row == self._recovery_row:
            return False
        place = self._lanes[lane]
        ring, head = place.ring, self._heads[place.word]
        last, following = self._rings[ring + (head - 1 & mask)], self._rings[ring + (head & mask)]
        if last == following:  # its slot is used again, so it was read: of who waits for each no cold line is looked at
            return False
        at, known = row * PRODUCER_WORDS, self._waits[row]
        self._waits[row] = waits = self._producers[at + _WAITS]
        if waits != known or self._producers[at + _WAITING] or self._producers[at + _POLLING]:
            return False
        before = self._rings[ring + (head - 2 & mask)]
        if max(before, last, following) >= self._slots or before in {last, following}:
            return False
        reads = not self._calls[following] & _FORGOTTEN
        if reads and FREE in (self._words[before] & STATE, self._words[last] & STATE):
            return False
        return bool(0 <= self._submitted[following] - self._submitted[before] < _SOON_NS)
