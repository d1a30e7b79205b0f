"""A system with nothing to do: its steps are put off, and taken together later.

    a step without work, nobody needed ──▶ rest ──each step: has an entry come or gone?──▶ no: put off
                                                └─ yes, or REST_STEPS are over ──▶ take those put off, then this one

A step by itself takes 1.5 ms, since after a second nothing of numpy is in any cache; of several at once each further
one takes 0.1 ms. Work that comes is seen at the end of its step, as without a rest; and there is none where a step that
is put off would see a need in the forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shmq.memory.segment import Segment
from shmq.planner.group import GroupPlanner, Observed, Plan

REST_STEPS = 6


class Rest:
    """Steps of all groups of one segment that are put off. Reads the segment only."""

    def __init__(self, segment: Segment) -> None:
        self._heads, self._tails = (segment.view(name).cast("B") for name in ("heads", "tails"))
        self._lanes = b""  # heads and tails alike, as they were when the rest began; empty: no rest
        self._seen: Sequence[Observed] = ()  # in the step in which it began
        self._put_off: list[float] = []

    def look(self) -> bytes:
        """The heads of all lanes: to be taken before a step is observed, for `begin`."""
        return bytes(self._heads)

    def begin(
        self, heads: bytes, groups: Sequence[GroupPlanner], seen: Sequence[Observed], plans: Sequence[Plan]
    ) -> None:
        """After a step: may those that follow be put off? `heads`: as they were before it was observed."""
        states = zip(groups, seen, plans, strict=True)
        if not all(_is_idle(now) and group.may_rest(now, plan, REST_STEPS) for group, now, plan in states):
            return
        if heads == self.look() == bytes(self._tails):  # heads before tails
            self._lanes, self._seen = heads, seen

    def lasts(self, now_s: float) -> bool:
        """May the step that ends now be put off? Then it is."""
        if not self._lanes or len(self._put_off) == REST_STEPS:
            return False
        if not self._lanes == self.look() == bytes(self._tails):
            return False
        self._put_off.append(now_s)
        return True

    def end(self) -> list[list[Observed]]:
        """What each step that was put off would have seen of the groups: they are to be taken now."""
        put_off, self._put_off, self._lanes = self._put_off, [], b""
        return [[replace(seen, now_s=ended_s) for seen in self._seen] for ended_s in put_off]


def _is_idle(seen: Observed) -> bool:
    return not (seen.arrivals or seen.departures or seen.waiting or seen.running)
