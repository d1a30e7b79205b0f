from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from shmq.planner.backtest import Queue, Setting
from shmq.planner.group import GroupPlanner, Observed
from shmq.planner.policy import Needs, Policy, Rules, horizon_steps
from shmq.planner.staffing import Goal
from tests.planner.loads import daily, flat, square

RULES = Rules(min_workers=1, max_workers=10, hold_s=30.0)


def targets(policy, needs, step_s=1.0):
    return [policy.decide(t * step_s, Needs(need, need)).target for t, need in enumerate(needs)]


def test_up_at_once():
    decision = Policy(RULES).decide(0.0, Needs(predicted=6, reactive=2))
    assert decision.target == 6
    assert decision.reason == "1 → 6: the forecast needs 6"


def test_the_larger_need_counts():
    decision = Policy(RULES).decide(0.0, Needs(predicted=2, reactive=5))
    assert decision.reason == "1 → 5: the present load needs 5"


def test_reactive_mode_does_not_look_ahead():
    policy = Policy(Rules(1, 10, 30.0, "reactive"))
    assert policy.decide(0.0, Needs(predicted=9, reactive=3)).target == 3


def test_fixed_mode_keeps_the_maximum():
    assert Policy(Rules(1, 10, 30.0, "fixed")).decide(0.0, Needs(0, 0)).target == 10


@pytest.mark.parametrize(("need", "target", "name"), [(99, 10, "max_workers = 10"), (0, 2, "min_workers = 2")])
def test_the_bounds_are_kept_and_named(need, target, name):
    decision = Policy(Rules(2, 10, 30.0)).decide(0.0, Needs(need, need))
    assert decision.target == target
    assert name in decision.reason


def test_down_only_when_the_need_has_been_lower_for_the_hold_time():
    got = targets(Policy(RULES), [10] + [1] * 40)
    assert got[:31] == [10] * 31
    assert got[31:] == [2] * 10  # one stays for a while


def test_down_only_to_the_greatest_need_of_the_hold_time():
    got = targets(Policy(Rules(1, 20, 30.0)), [20] + [3] * 20 + [5] + [3] * 20)
    assert got[30] == 20
    assert got[31] == 6


def test_the_fewer_workers_go_the_longer_it_has_to_last():
    lasted = []
    for need in (2, 5, 7):
        got = targets(Policy(RULES), [9] + [need] * 2000)
        lasted.append(next(t for t, target in enumerate(got) if target < 9))
    assert lasted[0] < lasted[1] < lasted[2]


def test_a_start_is_no_proof_of_a_low_need():
    policy = Policy(RULES, target=6)
    assert targets(policy, [1] * 29) == [6] * 29


def test_a_low_need_after_steps_that_nobody_saw_has_to_last_anew():
    policy = Policy(RULES)
    targets(policy, [10] * 40)
    policy.watch_anew()
    assert [policy.decide(1000.0 + t, Needs(1, 1)).target for t in range(32)] == [10] * 30 + [2, 2]


def test_one_worker_less_has_to_last():
    got = targets(Policy(RULES), [5] + [4] * 2000)
    assert got[1799] == 5
    assert got[-1] == 4


def test_never_down_while_work_arrives_faster_than_it_leaves():
    policy = Policy(RULES)
    policy.decide(0.0, Needs(8, 8))
    for t in range(1, 100):
        assert policy.decide(float(t), Needs(2, 2, arrivals=50.0, departures=30.0)).target == 8
    decision = policy.decide(100.0, Needs(2, 2, arrivals=45.0, departures=40.0))
    assert decision.target == 3


def test_to_zero_and_back_with_the_first_job():
    policy = Policy(Rules(0, 10, 30.0))
    assert targets(policy, [1] + [0] * 40)[-1] == 0
    assert policy.decide(41.0, Needs(0, 1)).target == 1


def test_a_step_down_taken_back_makes_it_patient():
    policy = Policy(RULES)
    got = targets(policy, ([5] + [3] * 2500) * 2)
    downs = [t for t, (a, b) in enumerate(pairwise(got)) if b < a]
    assert policy.patience > 1
    assert len(downs) == 1


def test_large_swings_are_followed_without_distrust():
    policy = Policy(Rules(1, 50, 5.0))
    got = targets(policy, ([40] * 60 + [4] * 60) * 6)
    assert policy.patience == 1
    assert got[119::120] == [5] * 6
    assert got[59::120] == [40] * 6


def test_memory_of_needs_is_bounded():
    policy = Policy(RULES)
    targets(policy, np.random.default_rng(0).integers(0, 12, 20_000).tolist())
    assert len(policy._needs) <= RULES.max_workers + 1


@pytest.mark.parametrize(("ready_s", "margin_s", "steps"), [(0.2, 0.0, 1), (0.5, 1.0, 2), (3.0, 1.0, 4), (0.0, 0.0, 1)])
def test_the_horizon_covers_getting_ready(ready_s, margin_s, steps):
    assert horizon_steps(ready_s, margin_s, 1.0) == steps


def simulate(counts, step_s, setting, mode="predictive"):
    """Targets for each next step, those ordered just in time included, and the plans."""
    rules = Rules(setting.min_workers, setting.max_workers, setting.hold_s, mode)
    planner = GroupPlanner(step_s, setting.goal, rules)
    queue, target, plans, targets_ = Queue(setting, step_s), setting.min_workers, [], []
    for t, count in enumerate(counts):
        done = queue.step(count, target).departures
        running = min(round(done / step_s * setting.service_s), target)
        waiting = math.floor(queue.backlog)
        plan = planner.step(
            Observed(t * step_s, count, done, waiting, running, setting.service_s, ready_s=setting.ready_s)
        )
        target = plan.target
        if plan.soon and plan.soon_s < step_s:
            target = planner.order_soon(t * step_s + plan.soon_s, plan).target
        targets_.append(target)
        plans.append(plan)
    return np.array(targets_), plans


@pytest.mark.parametrize(
    ("mean", "service_s", "mode"),
    [
        (20.0, 0.2, "predictive"),
        (200.0, 0.05, "predictive"),
        (0.3, 1.0, "predictive"),
        (20.0, 0.2, "reactive"),
    ],
)
def test_a_noisy_flat_load_does_not_flap(mean, service_s, mode):
    setting = Setting(service_s, Goal(0.2, 0.05), max_workers=32)
    got, _ = simulate(flat(2 * 3600, mean), 1.0, setting, mode)
    assert np.abs(np.diff(got[3600:])).sum() <= 2  # the first hour it gets to know the load


def test_rare_jobs_are_not_forked_a_worker_each():
    setting = Setting(0.05, Goal(0.2, 0.05), min_workers=0, max_workers=8)
    counts = flat(2 * 3600, 0.04)
    got, _ = simulate(counts, 1.0, setting)
    there = np.maximum(got, np.array(counts) > 0)  # a group at rest is woken by its first job, whatever the target
    assert np.abs(np.diff(there[3600:])).sum() <= 2


def test_a_group_comes_to_rest_when_its_load_is_gone():
    setting = Setting(0.2, Goal(0.2, 0.05), min_workers=0, max_workers=32)
    got, _ = simulate(flat(600, 20.0) + [0.0] * 600, 1.0, setting)
    assert got[599] > 4
    assert not got[900:].any()


def test_a_square_wave_is_followed():
    setting = Setting(0.2, Goal(0.2, 0.05), max_workers=64, hold_s=5.0)
    half, periods = 120, 6
    counts = square(periods, half, 20.0, 150.0)
    got, plans = simulate(counts, 1.0, setting)
    for period in range(2, periods):
        edge = (2 * period + 1) * half
        allowed = plans[edge].horizon_steps + 1
        assert got[edge + allowed] >= 30  # 150 per second of 0.2 s each
        assert got[edge - 1] <= 20


def test_predictive_is_there_before_the_load():
    setting = Setting(50.0, Goal(20.0, 0.05), max_workers=64, ready_s=1.0)
    counts = daily(14, step_s=600.0, mean=200.0)
    late = {}
    for mode in ("predictive", "reactive"):
        got, _ = simulate(counts, 600.0, setting, mode)
        queue, lost = Queue(setting, 600.0), 0.0
        for t in range(1, len(counts)):
            step = queue.step(counts[t], int(got[t - 1]))
            lost += step.late * (t > len(counts) // 2)
        late[mode] = lost, got[len(counts) // 2 :].sum()
    assert late["predictive"][0] < late["reactive"][0]
    assert late["predictive"][1] <= 1.02 * late["reactive"][1]


def test_the_first_job_of_an_unknown_kind_gets_one_worker():
    planner = GroupPlanner(1.0, Goal(0.05, 0.05), Rules(0, 8))
    assert planner.step(Observed(0.0, 0)).target == 0
    assert planner.step(Observed(1.0, 3, waiting=3)).target == 1


def test_where_jobs_turn_out_to_be_long_those_that_wait_get_workers_before_the_first_has_ended():
    planner = GroupPlanner(1.0, Goal(0.05, 0.05), Rules(0, 16))
    planner.step(Observed(0.0, 1.0, departures=1.0, service_s=0.001))

    def targets(stalled, jobs=8, service_s=0.001):
        target = planner.policy.target = 1
        found = []
        for step, stalled_s in enumerate(stalled, 1):
            running = min(target, jobs)
            seen = Observed(
                float(step), 0.0, waiting=jobs - running, running=running, service_s=service_s, stalled_s=stalled_s
            )
            target = planner.step(seen).target
            found.append(target)
        return found

    assert targets([1.5, 2.5, 3.5, 4.5]) == [2, 4, 8, 8]
    assert targets([0.5, 0.9]) == [1, 1]  # no longer than a step
    assert targets([1.5, 2.5], jobs=1) == [1, 1]  # nobody waits
