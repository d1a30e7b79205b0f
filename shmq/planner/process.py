"""The planner process: every step it reads the counters, plans each group, and writes the plan; at rest, now and then.

It may crash or hang at any time: the supervisor uses a plan only while it is fresh, and restarts the
process. The new one goes on from the workers that are there and from what was learned before.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from shmq.clock import NS, now_ns
from shmq.config.model import Config, Group
from shmq.memory import locks
from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN
from shmq.memory.segment import Segment, attach
from shmq.planner.group import GroupPlanner, Observed, Plan
from shmq.planner.observing import Observer
from shmq.planner.patterns import Patterns, next_boundary
from shmq.planner.policy import Rules
from shmq.planner.rest import Rest
from shmq.planner.routing.learner import Learner
from shmq.planner.sizing import Sizing
from shmq.planner.staffing import Goal, Grant, Host, Need, allocate
from shmq.planner.tuning import batch_size
from shmq.transport.bells import Bells

# a core too few must not starve a group whose jobs in fact wait: cpu groups may share cores twofold
CORES_SHARED = 2
MEMORY_SHARE = 0.9  # of the host's, for workers with a limit


class Planner:
    """Plans all groups of one namespace. Holds the planner byte: there is never a second one."""

    def __init__(self, segment_name: str, config: Config) -> None:
        self._config = config
        self._segment: Segment = attach(segment_name)
        lock_file = locks.open_once(self._segment.state_dir / "lock")
        lock_file.forget()  # inherited from the supervisor: the bytes stayed there
        lock_file.acquire(locks.PLANNER)
        self._step_s = config.planner.step_s
        self._cores = len(os.sched_getaffinity(0))
        self._memory_bytes = int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        self._observer = Observer(self._segment)
        self._rest = Rest(self._segment)
        self._learner = Learner(self._segment, list(config.groups))
        self._plans = self._segment.rows("group_plan")
        self._control = self._segment.rows("group_control")
        self._bells = Bells(self._segment)
        self._patterns = Patterns(self._segment.state_dir / "patterns", self._step_s, config.planner.day_s)
        self._names = list(config.groups)
        self._sizings = [
            Sizing(
                settings, self._cores, self._segment.shape.workers,
                self._control[g][GROUP_CONTROL["scaled_to"]], self._plans[g][GROUP_PLAN["concurrency"]],
            )
            for g, settings in enumerate(config.groups.values())
        ]  # fmt: skip
        self._groups: list[GroupPlanner] = []
        self._errors = [0.0] * len(self._names)
        self._loads = [0.0] * len(self._names)
        self._plans_made: list[Plan] = []
        self._expected = [-1.0] * len(self._names)  # arrivals that the last plan expected for this step
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Plan until killed."""
        self._wait_for_boundary()
        next_step = time.monotonic()
        missed = 0
        while True:
            began, next_step = next_step, next_step + self._step_s
            self._order_soon(began, next_step)
            time.sleep(max(next_step - time.monotonic(), 0.0))
            self.step(time.monotonic(), missed)
            # never plan twice at once to catch up: the forecaster is told instead
            missed = max(int((time.monotonic() - next_step) / self._step_s), 0)
            next_step += missed * self._step_s

    def _order_soon(self, began: float, next_step: float) -> None:
        """Between two steps: raise the targets that the plans made at `began` put off, each in its time."""
        put_off = sorted((plan.soon_s, g) for g, plan in enumerate(self._plans_made) if plan.soon)
        for soon_s, g in put_off:
            at = began + soon_s
            if at >= next_step:  # after the next decision, which then sees to it
                return
            time.sleep(max(at - time.monotonic(), 0.0))
            decision = self._groups[g].order_soon(at, self._plans_made[g])
            self._plans_made[g] = replace(self._plans_made[g], target=decision.target, reason=decision.reason)
            grant = self._share(self._plans_made)[self._names[g]]
            self._groups[g].policy.target = min(decision.target, grant.workers)
            self._plans[g][GROUP_PLAN["target"]] = grant.workers
            self._segment.set_text("group_reason", self._reason(g, self._plans_made[g], grant), g)
            self._bells.notify_supervisor()

    def _wait_for_boundary(self) -> None:
        """Load the patterns, wait until a step begins, and begin to count."""
        self._groups = [self._planner_of(g) for g in range(len(self._names))]
        boundary = next_boundary(time.time(), self._step_s)
        for planner in self._groups:
            self._patterns.resume(planner.forecaster, boundary)
        time.sleep(min(max(boundary - time.time(), 0.0), self._step_s))
        for g in range(len(self._groups)):
            self._observer.observe(g, time.monotonic())

    def _planner_of(self, g: int) -> GroupPlanner:
        settings, sizing = self._settings(g), self._sizings[g]
        rules = Rules(settings.min_workers, sizing.max_workers, settings.hold_s, settings.mode)
        goal = Goal(settings.target_wait_s, settings.miss_ratio)
        forecaster = self._patterns.load(self._names[g])
        planner = GroupPlanner(
            self._step_s, goal, rules,
            concurrency=sizing.concurrency, forecaster=forecaster, notice_s=self._config.supervisor.tick_s,
        )  # fmt: skip
        # whoever planned before us had reasons: go on from there, down only after a hold time of our own
        present = self._control[g][GROUP_CONTROL["scaled_to"]]
        planner.policy.target = min(max(present, rules.min_workers), rules.max_workers)
        return planner

    def _settings(self, g: int) -> Group:
        return self._config.groups[self._names[g]]

    def step(self, now_s: float, missed: int = 0) -> None:
        """One step of every group: observe, plan, share the host, write. `missed`: steps that went by unplanned."""
        if not missed and self._rest.lasts(now_s):
            for row in self._plans:
                # SYNC POINT: plan-visible — the numbers are those of the last step: written, and right for one more
                row[GROUP_PLAN["updated_ns"]] = now_ns()
            return
        for put_off in self._rest.end():
            self._observer.was_idle_until(put_off[0].now_s)
            self._take(put_off)
        heads = self._rest.look()
        seen = [self._observe(g, now_s, missed) for g in range(len(self._groups))]
        plans, expected = self._take(seen)
        grants = self._share(plans)
        for g, plan in enumerate(plans):
            grant = grants[self._names[g]]
            if grant.workers < plan.target:  # the backlog is worked off by those that there are
                self._groups[g].policy.target = grant.workers
            self._write(g, plan, seen[g], grant, expected[g])
        self._learner.step()
        if not self._observer.is_busy():
            self._rest.begin(heads, self._groups, seen, plans)
        if time.monotonic() - self._saved_at >= self._config.planner.save_s:
            self.save()

    def _take(self, seen: list[Observed]) -> tuple[list[Plan], list[float]]:
        """One step's counts of each group: its plan, and how many arrivals were expected."""
        for g, observed in enumerate(seen):
            self._fit(g, observed)
        self._plans_made = [planner.step(observed) for planner, observed in zip(self._groups, seen, strict=True)]
        return self._plans_made, [self._score(g, observed) for g, observed in enumerate(seen)]

    def save(self) -> None:
        """Save the learned patterns of all groups."""
        self._saved_at = time.monotonic()
        for name, planner in zip(self._names, self._groups, strict=True):
            self._patterns.save(name, planner.forecaster)

    def _observe(self, g: int, now_s: float, missed: int) -> Observed:
        """The last step's counts; those of a longer time are shared out among its steps."""
        planner = self._groups[g]
        seen = self._observer.observe(g, now_s)
        if missed:
            planner.forecaster.skip(missed)
            if missed * self._step_s >= planner.policy.rules.hold_s:
                planner.policy.watch_anew()
            steps = missed + 1
            seen = replace(seen, arrivals=seen.arrivals / steps, departures=seen.departures / steps)
        return seen

    def _fit(self, g: int, seen: Observed) -> None:
        """Concurrency and most workers of a group, where they are found by trying."""
        planner, sizing = self._groups[g], self._sizings[g]
        sizing.observe(seen, self._step_s, self._control[g][GROUP_CONTROL["workers"]])
        planner.concurrency = sizing.concurrency
        if planner.policy.rules.max_workers != sizing.max_workers:
            planner.policy.rules = replace(planner.policy.rules, max_workers=sizing.max_workers)

    def _share(self, plans: list[Plan]) -> dict[str, Grant]:
        """What each group gets of the host; a computation worker needs a core, a network one does not."""
        needs = [self._need(g, plan) for g, plan in enumerate(plans)]
        rows = self._segment.shape.workers
        return allocate(needs, Host(CORES_SHARED * self._cores, self._memory_bytes, rows))

    def _need(self, g: int, plan: Plan) -> Need:
        settings = self._settings(g)
        return Need(
            self._names[g],
            plan.target,
            settings.min_workers,
            self._groups[g].policy.rules.max_workers,
            settings.kind,
            settings.importance,
            settings.max_worker_memory_bytes or 0,
        )

    def _score(self, g: int, observed: Observed) -> float:
        """Running accuracy of the next step's forecast: 1 - WAPE over about the last hundred steps.

        Returns:
            What was expected of this step; the count itself where nothing was.
        """
        keep, expected = 0.99, self._expected[g]
        if expected >= 0.0:
            self._errors[g] = keep * self._errors[g] + abs(observed.arrivals - expected)
            self._loads[g] = keep * self._loads[g] + observed.arrivals
        self._expected[g] = float(self._groups[g].forecaster.forecast(1)[0][0])
        return expected if expected >= 0.0 else observed.arrivals

    def _write(self, g: int, plan: Plan, seen: Observed, grant: Grant, expected: float) -> None:
        """The plan row: numbers first, `updated_ns` last (SYNC POINT: plan-visible)."""
        row, settings, sizing = self._plans[g], self._settings(g), self._sizings[g]
        accuracy = max(1.0 - self._errors[g] / self._loads[g], 0.0) if self._loads[g] > 0 else 0.0
        self._segment.set_text("group_reason", self._reason(g, plan, grant), g)
        is_news = row[GROUP_PLAN["target"]] != grant.workers
        for word, value in {
            "target": grant.workers, "step": int(self._step_s * NS), "arrivals_milli": int(plan.rate_per_s * 1000),
            "mean_milli": int(max(plan.mean, 0) * 1000), "lo_milli": int(max(plan.low, 0) * 1000),
            "hi_milli": int(max(plan.high, 0) * 1000), "service_ns": int(seen.service_s * NS),
            "need": plan.predicted, "reactive_need": plan.reactive, "accuracy_milli": int(accuracy * 1000),
            "batch": batch_size(seen.service_s, settings.target_batch_s, settings.max_batch) if seen.service_s else 1,
            "concurrency": sizing.concurrency, "came_milli": int(seen.arrivals * 1000),
            "expected_milli": int(expected * 1000),
        }.items():  # fmt: skip
            row[GROUP_PLAN[word]] = value
        # SYNC POINT: plan-visible — the numbers are written before the time that makes them fresh
        row[GROUP_PLAN["updated_ns"]] = now_ns()
        if is_news:
            self._bells.notify_supervisor()

    def _reason(self, g: int, plan: Plan, grant: Grant) -> str:
        """Of the target, in words: the policy's, or what the host lacks; and what tuning found."""
        is_cut = grant.limit and grant.workers < plan.target
        reason = f"{grant.workers}: {grant.limit}, wanted {plan.target}" if is_cut else plan.reason
        tuned = self._sizings[g].reason
        return f"{reason}; {tuned}" if tuned else reason
