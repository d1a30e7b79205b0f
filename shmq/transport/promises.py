"""A producer's side of attended groups: promises of workers for which it has left out rings.

    publish → promise read → ring left out → … moment over → grace → does an entry still wait? → ring

Who has promised to look again may be kept: by a job that turns out to be long, or because it gets no core. A producer
that goes on submitting finds the promise over, and rings; one that waits sees to it by `settle`.
"""

from __future__ import annotations

from shmq.clock import NS, now_ns
from shmq.memory.lanes import row_lanes
from shmq.memory.layout import GROUP_CLAIM, GROUP_CLAIM_WORDS, PRIORITIES
from shmq.memory.segment import Segment
from shmq.transport.bells import Bells

LONGEST_PROMISE_NS = 260_000
"""No promise of a worker to look again (see `transport.claim`) lies further ahead."""
_GRACE_NS = 100_000  # from the moment that was promised until the worker has woken and claimed, most often


class Promises:
    """What one producer has been promised.

    Concurrency: threads share it.
    """

    def __init__(self, segment: Segment, row: int, bells: Bells) -> None:
        self.attended = segment.view("group_claim")[GROUP_CLAIM["attended_until_ns"] :: GROUP_CLAIM_WORDS]
        self.believed: dict[int, int] = {}  # by group: the moment up to which rings were left out
        self._heads, self._tails, self._bells = segment.view("heads"), segment.view("tails"), bells
        first = [lane.word for _, lane in row_lanes(segment.shape, row)][::PRIORITIES]
        self._lanes = [slice(word, word + PRIORITIES) for word in first]  # by group

    def believe(self, group: int) -> int:
        """Until when a worker of the group looks by itself, so that what is published needs no ring; 0: ring.

        Caller must: have published, and fenced.
        """
        # SYNC POINT: attended — the tail is visible before the moment after which that worker looks again
        now, until = now_ns(), self.attended[group]
        if until <= now:
            return 0
        until = min(until, now + LONGEST_PROMISE_NS)  # damaged? what can have been promised
        self.believed[group] = max(until, self.believed.get(group, 0))  # another hot path may believe the longer one
        return int(until)

    def settle(self) -> float:
        """Ring where an entry of this producer still waits although its moment has long passed.

        Seconds until the next such look is due; infinite when there is none.
        """
        left_ns, now = float("inf"), now_ns()
        for group in list(self.believed):  # no pairs: making them may collect garbage, whose finalizers may submit
            until = self.believed.get(group, 0)
            if now < until + _GRACE_NS:
                left_ns = min(left_ns, until + _GRACE_NS - now)
                continue
            lanes = self._lanes[group]
            if self._heads[lanes] != self._tails[lanes]:
                self._bells.wake_one(group)
            if self.believed.get(group) == until:  # after the ring: a signal handler that raises must not lose both
                self.believed.pop(group, None)
        return left_ns / NS
