"""The planner process: every step it reads the counters, plans each group, and writes the plan.

It may crash or hang at any time: the supervisor uses a plan only while it is fresh, and restarts the
process. What was learned of the load is saved now and then and loaded at the start.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from shmq.clock import NS, now_ns
from shmq.config.model import Config, Group
from shmq.memory import locks
from shmq.memory.layout import GROUP_PLAN
from shmq.memory.segment import Segment, attach
from shmq.planner.forecast import Forecaster
from shmq.planner.group import GroupPlanner, Observed, Plan
from shmq.planner.observing import Observer
from shmq.planner.policy import Rules
from shmq.planner.staffing import Goal, Grant, Host, Need, allocate
from shmq.planner.tuning import batch_size

_log = logging.getLogger("shmq.planner")


class Planner:
    """Plans all groups of one namespace. Holds the planner byte: there is never a second one."""

    def __init__(self, segment_name: str, config: Config) -> None:
        self._config = config
        self._segment: Segment = attach(segment_name)
        lock_file = locks.open_once(self._segment.state_dir / "lock")
        lock_file.forget()  # inherited from the supervisor: the bytes stayed there
        lock_file.acquire(locks.PLANNER)
        self._step_s = config.planner.step_s
        self._observer = Observer(self._segment)
        self._plans = self._segment.rows("group_plan")
        self._folder = self._segment.state_dir / "patterns"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._groups = [self._planner_of(name, settings) for name, settings in config.groups.items()]
        self._errors = [0.0] * len(self._groups)
        self._loads = [0.0] * len(self._groups)
        self._expected = [-1.0] * len(self._groups)  # arrivals that the last plan expected for the next step
        self._saved_at = time.monotonic()

    def _planner_of(self, name: str, settings: Group) -> GroupPlanner:
        most = os.cpu_count() or 1 if settings.max_workers == "auto" else int(settings.max_workers)
        rules = Rules(settings.min_workers, max(most, settings.min_workers), settings.hold_s, settings.mode)
        concurrency = 1 if settings.concurrency == "auto" else int(settings.concurrency)
        forecaster = Forecaster.load(self._path(name), self._step_s) if self._path(name).exists() else None
        goal = Goal(settings.target_wait_s, settings.miss_ratio)
        return GroupPlanner(self._step_s, goal, rules, concurrency=concurrency, forecaster=forecaster)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

    def run(self) -> None:
        """Plan until killed."""
        next_step = time.monotonic()
        while True:
            self.step(time.monotonic())
            next_step += self._step_s
            late = time.monotonic() - next_step
            if late > 0:  # never plan twice at once to catch up: the forecaster is told instead
                missed = int(late / self._step_s)
                for planner in self._groups:
                    planner.forecaster.skip(missed)
                next_step += missed * self._step_s
            time.sleep(max(next_step - time.monotonic(), 0.0))

    def step(self, now_s: float) -> None:
        """One step of every group: observe, plan, share the host, write."""
        seen = [self._observer.observe(g, now_s) for g in range(len(self._groups))]
        plans = [planner.step(s) for planner, s in zip(self._groups, seen, strict=True)]
        grants = self._share(plans)
        for g, (plan, observed) in enumerate(zip(plans, seen, strict=True)):
            name = list(self._config.groups)[g]
            self._score(g, observed)
            self._write(g, plan, observed, grants[name])
        if time.monotonic() - self._saved_at >= self._config.planner.save_s:
            self.save()

    def save(self) -> None:
        """Save the learned patterns of all groups."""
        self._saved_at = time.monotonic()
        for name, planner in zip(self._config.groups, self._groups, strict=True):
            planner.forecaster.save(self._path(name))

    def _share(self, plans: list[Plan]) -> dict[str, Grant]:
        """What each group gets of the host; a computation worker needs a core, a network one does not."""
        needs = [
            Need(
                name,
                plan.target,
                settings.min_workers,
                planner.policy.rules.max_workers,
                settings.kind,
                settings.importance,
            )
            for (name, settings), plan, planner in zip(
                self._config.groups.items(), plans, self._groups, strict=True
            )
        ]
        # a core too few must not starve a group whose jobs in fact wait: cpu groups may share cores twofold
        cores = 2 * len(os.sched_getaffinity(0))
        return allocate(needs, Host(cores=cores, worker_rows=self._segment.shape.workers))

    def _score(self, g: int, observed: Observed) -> None:
        """Running accuracy of the next step's forecast: 1 - WAPE over about the last hundred steps."""
        keep = 0.99
        if self._expected[g] >= 0.0:
            self._errors[g] = keep * self._errors[g] + abs(observed.arrivals - self._expected[g])
            self._loads[g] = keep * self._loads[g] + observed.arrivals
        self._expected[g] = float(self._groups[g].forecaster.forecast(1)[0][0])

    def _write(self, g: int, plan: Plan, seen: Observed, grant: Grant) -> None:
        """The plan row: numbers first, `updated_ns` last (SYNC POINT: plan-visible)."""
        row = self._plans[g]
        accuracy = max(1.0 - self._errors[g] / self._loads[g], 0.0) if self._loads[g] > 0 else 0.0
        settings = list(self._config.groups.values())[g]
        reason = (
            plan.reason
            if not grant.limit or grant.workers == plan.target
            else f"{grant.workers}: {grant.limit}"
        )
        self._segment.set_text("group_reason", reason, g)
        for word, value in {
            "target": grant.workers, "step": int(self._step_s * NS), "arrivals_milli": int(plan.rate_per_s * 1000),
            "mean_milli": int(max(plan.mean, 0) * 1000), "lo_milli": int(max(plan.low, 0) * 1000),
            "hi_milli": int(max(plan.high, 0) * 1000), "service_ns": int(seen.service_s * NS),
            "need": plan.predicted, "reactive_need": plan.reactive, "accuracy_milli": int(accuracy * 1000),
            "batch": batch_size(seen.service_s, settings.target_batch_s, settings.max_batch) if seen.service_s else 1,
        }.items():  # fmt: skip
            row[GROUP_PLAN[word]] = value
        # SYNC POINT: plan-visible — the numbers are written before the time that makes them fresh
        row[GROUP_PLAN["updated_ns"]] = now_ns()
