"""What the planner process writes between two steps, on a segment and with plans that a test makes."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from shmq.config.model import Config, Group
from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN, GROUP_PLAN_WORDS
from shmq.planner.group import GroupPlanner, Observed, Plan
from shmq.planner.policy import Rules
from shmq.planner.process import Planner
from shmq.planner.rest import Rest
from shmq.planner.sizing import Sizing
from shmq.planner.staffing import Goal

TARGET = GROUP_PLAN["target"]


class Texts:
    """The segment as far as the planner writes reasons into it."""

    shape = SimpleNamespace(workers=20)

    def __init__(self):
        self.reasons = {}

    def set_text(self, _field, text, g):
        self.reasons[g] = text


@pytest.fixture
def planner():
    """Two groups, `late` and `soon`, with two workers each to be."""
    planner = Planner.__new__(Planner)
    planner._names = ["late", "soon"]
    settings = Group(kind="io", max_workers=30)
    planner._config = Config(groups={"late": settings, "soon": settings})
    planner._segment, planner._cores, planner._memory_bytes = Texts(), 2, 1 << 30
    planner._plans = [[0] * GROUP_PLAN_WORDS for _ in range(2)]
    planner._bells = SimpleNamespace(rung=0)
    planner._bells.notify_supervisor = lambda: setattr(planner._bells, "rung", planner._bells.rung + 1)
    planner._sizings = [SimpleNamespace(reason="")] * 2
    planner._groups = [GroupPlanner(1.0, Goal(0.1, 0.05), Rules(1, 30)) for _ in range(2)]
    planner._rest = Rest(SimpleNamespace(view=lambda _name: memoryview(b"")))
    for group in planner._groups:
        group.policy.target = 2
    return planner


def plan(soon=0, soon_s=0.0):
    return Plan(2, "2: as before", 2, 2, 1, 1.0, 1.0, 0.0, 2.0, soon, soon_s)


def test_a_target_that_was_put_off_is_written_in_its_time(planner):
    planner._plans_made = [plan(), plan(soon=6, soon_s=0.05)]
    began = time.monotonic()
    planner._order_soon(began, began + 60.0)
    assert time.monotonic() - began >= 0.05
    assert [row[TARGET] for row in planner._plans] == [0, 6]
    assert planner._groups[1].policy.target == 6
    assert planner._segment.reasons == {1: "2 → 6: the forecast needs 6 soon"}
    assert planner._bells.rung == 1  # the supervisor may be at rest


def test_what_the_next_decision_sees_to_is_left_to_it(planner):
    planner._plans_made = [plan(), plan(soon=6, soon_s=5.0)]
    planner._order_soon(time.monotonic(), time.monotonic() + 1.0)
    assert [row[TARGET] for row in planner._plans] == [0, 0]


def stopped_for(planner, steps):
    """The targets of the first group around steps that went by while the planner was stopped."""
    planner._step_s, planner._control = 1.0, [[0] * len(GROUP_CONTROL)] * 2
    planner._sizings = [Sizing(planner._config.groups[name], 2, 20) for name in planner._names]
    planner._groups[0].policy.rules = Rules(1, 30, hold_s=10.0)
    load = {"arrivals": 20.0, "departures": 20.0, "service_s": 0.5}
    planner._observer = SimpleNamespace(observe=lambda _, now_s: Observed(now_s, **load))

    def step(now_s, missed=0):
        return planner._groups[0].step(planner._observe(0, now_s, missed)).target

    busy = [step(float(t)) for t in range(20)][-1]
    load |= {"arrivals": 0.0, "departures": 0.0}
    return busy, step(20.0 + steps, steps)


def test_steps_that_nobody_saw_are_no_proof_of_a_low_need(planner):
    busy, after = stopped_for(planner, 3600)
    assert after == busy > 5


def test_the_host_is_shared_between_two_steps_as_well(planner):
    planner._plans_made = [plan(), plan(soon=25)]
    planner._order_soon(time.monotonic(), time.monotonic() + 60.0)
    assert planner._plans[1][TARGET] == 18  # 20 rows, two are the other group's
    assert planner._groups[1].policy.target == 18
    assert "no worker row left" in planner._segment.reasons[1]
