"""Steps of a system at rest are put off, and taken together: what is known and decided is as without."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from shmq.config.model import Config, Group
from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN, GROUP_PLAN_WORDS
from shmq.planner.group import GroupPlanner, Observed
from shmq.planner.policy import Rules
from shmq.planner.process import Planner
from shmq.planner.rest import REST_STEPS, Rest
from shmq.planner.sizing import Sizing
from shmq.planner.staffing import Goal

UPDATED = GROUP_PLAN["updated_ns"]


class Lanes:
    """One group, one lane: what came, what went."""

    def __init__(self) -> None:
        self.words = {"heads": memoryview(bytearray(64)).cast("L"), "tails": memoryview(bytearray(64)).cast("L")}

    def view(self, name):
        return self.words[name]

    def come_and_go(self, jobs):
        for word in self.words.values():
            word[0] += jobs


class Run:
    """A planner of one group, fed by hand; `rests`: may it?"""

    def __init__(self, *, rests=True, mode="predictive", min_workers=1):
        self.lanes, self.seen_at, self.idle_until = Lanes(), [], []
        self.planner = planner = Planner.__new__(Planner)
        settings = Group(min_workers=min_workers, max_workers=8, mode=mode)
        planner._names, planner._config = ["only"], Config(groups={"only": settings})
        planner._step_s, planner._cores, planner._memory_bytes = 1.0, 4, 1 << 30
        planner._control, planner._plans = [[0] * len(GROUP_CONTROL)], [[0] * GROUP_PLAN_WORDS]
        planner._segment = SimpleNamespace(shape=SimpleNamespace(workers=20), set_text=lambda *_: None)
        planner._bells = SimpleNamespace(notify_supervisor=lambda: None)
        planner._sizings = [Sizing(settings, 4, 20)]
        planner._groups = [GroupPlanner(1.0, Goal(0.1, 0.05), Rules(min_workers, 8, hold_s=3.0, mode=mode))]
        planner._errors, planner._loads, planner._expected, planner._saved_at = [0.0], [0.0], [-1.0], 1e18
        planner._learner = SimpleNamespace(step=lambda: None)
        self.is_leased = False
        planner._observer = SimpleNamespace(
            observe=self._observe, was_idle_until=self.idle_until.append, is_busy=lambda: self.is_leased
        )
        planner._rest = Rest(self.lanes)
        if not rests:
            planner._rest.begin = lambda *_: None
        self.targets = []
        self._came = 0

    def _observe(self, _group, now_s):
        self.seen_at.append(now_s)
        came, self._came = self._came, 0
        return Observed(now_s, arrivals=float(came), departures=float(came), service_s=0.05)

    def steps(self, counts):
        for count in counts:
            self._came += count
            self.lanes.come_and_go(count)
            self.planner.step(float(len(self.targets)))
            self.targets.append(self.planner._plans[0][GROUP_PLAN["target"]])


COUNTS = [0] * 40 + [60, 80, 90, 40, 5] + [0] * 60 + [1] + [0] * 30


def test_all_that_is_learned_and_decided_is_as_without():
    resting, other = Run(), Run(rests=False)
    resting.steps(COUNTS)
    other.steps(COUNTS)
    for run in (resting, other):
        run.steps([3])  # ends the rest
    assert len(resting.seen_at) < 0.8 * len(other.seen_at)
    assert resting.targets == other.targets
    assert max(resting.targets) > 1
    ours, theirs = resting.planner._groups[0].forecaster, other.planner._groups[0].forecaster
    assert ours.t == theirs.t
    assert np.array_equal(ours.forecast(15), theirs.forecast(15))
    assert resting.planner._errors == other.planner._errors


def test_a_rest_is_as_long_as_it_may_be_and_ends_with_the_step_in_which_work_came():
    run = Run(mode="fixed")
    run.steps([0] * (1 + REST_STEPS))
    assert run.seen_at == [0.0]
    run.steps([0])
    assert run.seen_at == [0.0, 1.0 + REST_STEPS]
    assert run.idle_until == [1.0 + step for step in range(REST_STEPS)]  # what runs now began later
    run.steps([0, 5])
    assert run.seen_at[-1] == 3.0 + REST_STEPS
    assert run.planner._groups[0].forecaster.t == len(run.targets)


def test_what_lies_in_a_lane_ends_the_rest():
    run = Run(mode="fixed")
    run.steps([0, 0])
    run.lanes.words["tails"][0] += 1
    run.steps([0])
    assert run.seen_at == [0.0, 2.0]


def test_a_job_that_comes_and_goes_while_a_step_is_taken_is_seen_in_the_next():
    run = Run(mode="fixed")
    run.planner._learner.step = lambda: run.lanes.come_and_go(1)
    run.steps([0, 0, 0])
    assert run.seen_at == [0.0, 1.0, 2.0]


def test_there_is_no_rest_while_a_worker_has_claimed_a_job():
    run = Run(mode="fixed")
    run.is_leased = True
    run.steps([0, 0])
    run.is_leased = False
    run.steps([0, 0])
    assert run.seen_at == [0.0, 1.0, 2.0]


def test_the_plan_stays_fresh():
    run = Run(mode="fixed")
    run.steps([0])
    before = run.planner._plans[0][UPDATED]
    run.steps([0])
    assert run.seen_at == [0.0]
    assert run.planner._plans[0][UPDATED] > before


@pytest.mark.parametrize("counts", [[50, 50, 50, 0], [0, 3]])
def test_a_group_with_more_to_decide_does_not_rest(counts):
    run = Run(min_workers=0)
    run.steps([*counts, 0, 0])
    assert len(run.seen_at) == len(run.targets)


def test_a_planner_that_was_away_takes_the_steps_that_it_had_put_off_first():
    run = Run(mode="fixed")
    run.steps([0, 0, 0])
    run.planner.step(10.0, missed=7)
    assert run.planner._groups[0].forecaster.t == 3 + 7 + 1
