"""How many workers each pool shall have: what the planner says, or a reactive rule without it.

The planner's target counts while it is fresh; a planner that crashed or hangs leaves the reactive
rule in charge: one more worker while jobs wait and nobody sleeps, one less after a quiet time.
"""

from __future__ import annotations

import time

from shmq.clock import NS, now_ns
from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.worker import Pool

_FRESH_STEPS = 5
_LONGEST_STEP_NS = 60 * NS
_STEP_S = 0.1


class Staffing:
    """Sets every pool's target."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._rows = pools.rows
        self._next_step = 0.0

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
                wanted = self._planned(pool)
                if pool.settings.max_workers == "auto":
                    # the planner finds the bound; without it the cores are one, but nobody leaves for that
                    high = self._rows.count if wanted is not None else max(high, pool.target)
                if wanted is None:
                    # the first job of a group at rest does not wait for the next step
                    wanted = self._reactive(pool) if is_step or not pool.target else pool.target
                elif wanted == 0:
                    wanted = self._woken(pool)
                pool.target = min(max(wanted, low), high)

    def _planned(self, pool: Pool) -> int | None:
        """The planner's target, if it was written within its last few steps."""
        age_ns = now_ns() - self._rows.plan(pool.index, "updated_ns")
        step_ns = self._rows.plan(pool.index, "step")
        is_fresh = 0 < step_ns <= _LONGEST_STEP_NS and 0 <= age_ns <= max(_FRESH_STEPS * step_ns, NS)
        return self._rows.plan(pool.index, "target") if is_fresh else None

    def _woken(self, pool: Pool) -> int:
        """A group at rest has a worker from its first job until the planner has seen that job and plans anew."""
        plan_ns = self._rows.plan(pool.index, "updated_ns")
        if self._has_work(pool):
            pool.woken_at_plan_ns = plan_ns
        return int(pool.woken_at_plan_ns == plan_ns)

    def _has_work(self, pool: Pool) -> bool:
        """Do jobs wait that may be started?"""
        return not self._rows.control(pool.index, "paused") and self._rows.backlog(pool.index) > 0

    def _reactive(self, pool: Pool) -> int:
        active = pool.active()
        now, rows = time.monotonic(), self._rows
        if self._has_work(pool):
            pool.idle_since = 0.0
            is_one_coming = any(not w.is_live for w in active)
            is_one_idle = any(rows.is_asleep(pool.index, w.index) for w in active)
            return pool.target + (0 if pool.target and (is_one_coming or is_one_idle) else 1)
        if any(w.is_live and not rows.is_asleep(pool.index, w.index) for w in active):
            pool.idle_since = 0.0
        elif not pool.idle_since:
            pool.idle_since = now
        if pool.idle_since and now - pool.idle_since > pool.settings.hold_s:
            pool.idle_since = now
            return pool.target - 1
        return pool.target
