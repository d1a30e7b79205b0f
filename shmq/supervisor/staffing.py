"""How many workers each pool shall have: what the planner says, or a reactive rule without it.

The planner's target counts while it is fresh; a planner that crashed or hangs leaves the reactive
rule in charge: one more worker while jobs wait and nobody sleeps, one less after a quiet time.
"""

from __future__ import annotations

import time

from shmq.clock import NS, now_ns
from shmq.memory.layout import GROUP_PLAN, GROUP_PLAN_WORDS, LANE_WORDS, WORKER
from shmq.memory.segment import Segment
from shmq.supervisor.pools import Pool, Pools

_FRESH_STEPS = 5
_STEP_S = 0.1


class Staffing:
    """Sets every pool's target."""

    def __init__(self, segment: Segment, pools: Pools) -> None:
        self._segment = segment
        self._pools = pools
        self._heads, self._tails = segment.view("heads"), segment.view("tails")
        self._width = (segment.shape.producers + 1) * LANE_WORDS
        self._plans = segment.rows("group_plan")
        self._next_step = 0.0
        assert len(self._plans[0]) == GROUP_PLAN_WORDS

    def decide(self) -> None:
        """Set the targets of all pools."""
        is_step = time.monotonic() >= self._next_step
        if is_step:
            self._next_step = time.monotonic() + _STEP_S
        for pool in self._pools.pools:
            low, high = pool.settings.min_workers, max(pool.most, pool.settings.min_workers)
            if pool.fixed_target is not None:
                pool.target = pool.fixed_target
            elif pool.settings.mode == "fixed":
                pool.target = high
            else:
                planned = self._planned(pool)
                if planned is not None:
                    pool.target = min(max(planned, low), high)
                elif is_step:
                    pool.target = min(max(self._reactive(pool), low), high)

    def _planned(self, pool: Pool) -> int | None:
        """The planner's target, if it was written within its last few steps."""
        plan = self._plans[pool.index]
        age_ns = now_ns() - plan[GROUP_PLAN["updated_ns"]]
        step_ns = plan[GROUP_PLAN["step"]]
        if not step_ns or age_ns > max(_FRESH_STEPS * step_ns, NS):
            return None
        return int(plan[GROUP_PLAN["target"]])

    def backlog(self, pool: Pool) -> int:
        """Entries waiting in the group's lanes."""
        at = pool.index * self._width
        heads = sum(self._heads[at : at + self._width].tolist())  # heads before tails
        return max(sum(self._tails[at : at + self._width].tolist()) - heads, 0)

    def _reactive(self, pool: Pool) -> int:
        backlog = self.backlog(pool)
        active = len(pool.active())
        now = time.monotonic()
        if backlog:
            pool.idle_since = 0.0
            starting = sum(1 for w in pool.active() if not w.is_live)
            return max(pool.target, active + 1 if not starting else active)
        if any(self._is_running(w.index) for w in pool.active()):
            pool.idle_since = 0.0
        elif not pool.idle_since:
            pool.idle_since = now
        if pool.idle_since and now - pool.idle_since > pool.settings.hold_s:
            pool.idle_since = now
            return pool.target - 1
        return pool.target

    def _is_running(self, index: int) -> bool:
        return not self._segment.view("sleeping")[self._sleeping_at(index)]

    def _sleeping_at(self, index: int) -> int:
        group = self._pools.row(index)[WORKER["group"]]
        return int(group) * self._segment.layout.sleepers + 1 + index
