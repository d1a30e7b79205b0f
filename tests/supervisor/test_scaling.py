"""Whom the supervisor keeps: the planner's word and its own rule, and who leaves first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from shmq.clock import NS, now_ns
from shmq.config.model import Group
from shmq.supervisor.pools import rows as segment_rows
from shmq.supervisor.pools.staffing import Staffing
from shmq.supervisor.pools.worker import Pool
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, time, shmq

@shmq.task
def held(gate):
    while not os.path.exists(gate):
        time.sleep(0.005)
    return os.getpid()
"""


class Rows:
    """The segment as far as staffing reads it."""

    count = 64

    def __init__(self, target=0, age_s=0.0):
        self.waiting, self.paused, self.target = 0, 0, target
        self.updated_ns = now_ns() - int(age_s * NS)

    def plan(self, _, name):
        return {"updated_ns": self.updated_ns, "step": 60 * NS, "target": self.target}[name]

    def control(self, _, name):
        return self.paused

    def backlog(self, _):
        return self.waiting

    def is_asleep(self, _, index):
        return False


def staffing(rows, **settings):
    """A group of at most two workers unless told otherwise, and what decides for it."""
    settings = Group(**({"min_workers": 0, "max_workers": 2} | settings))
    pool = Pool(0, "group", settings, most=2)
    return pool, Staffing(SimpleNamespace(rows=rows, pools=[pool]))


def decided(pool, staff):
    staff.decide()
    return pool.target


def test_the_first_job_of_a_group_at_rest_has_its_worker_kept_until_the_planner_plans_anew():
    rows = Rows(target=0)
    pool, staff = staffing(rows)
    assert decided(pool, staff) == 0
    rows.waiting = 1
    assert decided(pool, staff) == 1
    rows.waiting = 0
    assert decided(pool, staff) == 1
    rows.updated_ns += 1
    assert decided(pool, staff) == 0


def test_a_paused_group_at_rest_is_not_woken():
    rows = Rows(target=0)
    rows.waiting, rows.paused = 5, 1
    assert decided(*staffing(rows)) == 0


@pytest.mark.parametrize(("most", "targets"), [(2, (2, 2)), ("auto", (20, 20))])
def test_an_old_plan_is_no_reason_to_leave_though_its_bound_is_unknown(most, targets):
    rows = Rows(target=20)
    pool, staff = staffing(rows, max_workers=most, hold_s=1000.0)
    assert decided(pool, staff) == targets[0]
    rows.updated_ns -= 3600 * NS
    rows.waiting = 100
    assert decided(pool, staff) == targets[1]


def test_the_newest_leave_first_and_nobody_in_the_middle_of_a_job(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, "[groups.computation]\nmax_workers = 4\n") as live:
        rows = segment_rows.Rows(live.segment)

        def idle():
            return sum(rows.is_asleep(0, worker["index"]) for worker in live.live_workers("computation"))

        def scaled(workers, busy=0):
            live.control("scale", group="computation", workers=workers)
            until(lambda: len(live.live_workers("computation")) == workers, f"{workers} workers")
            until(lambda: idle() == workers - busy, "those without a job sleep")
            return {worker["pid"] for worker in live.live_workers("computation")}

        first = scaled(1)
        assert scaled(2) > first
        assert scaled(4) > first
        assert scaled(1) == first
        gate = tmp_path / "gate"
        job = live.submit("held", str(gate))
        until(lambda: job.state == "running", "it runs")
        assert scaled(3, busy=1) > first
        assert scaled(1, busy=1) == first  # idle ones before the one at work, older though it is
        live.control("scale", group="computation", workers=0)
        until(lambda: any(worker["draining"] for worker in live.workers("computation")), "it is told to leave")
        gate.touch()
        assert {job.result(GUARD_S)} == first
        until(lambda: not live.workers("computation"), "it has left")
        assert live.controls()[0]["past_crashed"] == 0
