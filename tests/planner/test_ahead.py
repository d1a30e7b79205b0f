"""When workers are ordered for what the forecast says, with a forecaster that says what a test wants."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from shmq.planner.group import GroupPlanner, Observed, PresentRate
from shmq.planner.policy import Rules
from shmq.planner.staffing import Goal, arrival_cv2, most_arrivals

QUIET, BUSY = 2.0, 40.0


class Says:
    """A forecaster that is certain: `means` for the next steps, the last of them for ever."""

    def __init__(self, *means):
        self.means = list(means)

    def update(self, count):
        pass

    def forecast(self, h_steps):
        means = np.array([self.means[min(h, len(self.means) - 1)] for h in range(h_steps)])
        noise = 1.645 * np.sqrt(means)
        return means, np.maximum(means - noise, 0), means + noise


def planner(*means, **options):
    return GroupPlanner(1.0, Goal(0.2, 0.05), Rules(1, 64), forecaster=Says(*means), **options)


def seen(now_s=0.0, **what):
    return Observed(now_s, QUIET, QUIET, service_s=0.5, **what)


def workers_for(mean):
    return planner(mean).step(seen(ready_s=0.2)).target


def test_the_next_step_is_ordered_at_once():
    assert planner(BUSY).step(seen(ready_s=0.2)).target == workers_for(BUSY) > workers_for(QUIET)


def test_the_step_after_it_is_ordered_just_in_time():
    group = planner(QUIET, BUSY, notice_s=0.1)
    plan = group.step(seen(ready_s=0.2, pace_s=0.01))
    assert plan.target == workers_for(QUIET)
    assert plan.soon == workers_for(BUSY)
    assert plan.soon_s == pytest.approx(1.0 - 0.1 - 0.2 - 0.01 * (plan.soon - plan.target))
    decision = group.order_soon(plan.soon_s, plan)
    assert decision.target == plan.soon
    assert "soon" in decision.reason


def test_without_time_for_that_it_is_ordered_now():
    for slow in ({"ready_s": 1.5}, {"ready_s": 0.2, "pace_s": 0.1}):
        assert planner(QUIET, BUSY).step(seen(**slow)).target == workers_for(BUSY)


def test_further_ahead_only_those_are_ordered_who_take_too_long_to_fork():
    busy = workers_for(BUSY)
    targets = [
        planner(*[QUIET] * quiet_steps, BUSY).step(seen(ready_s=0.5, pace_s=0.2)).target for quiet_steps in range(1, 8)
    ]
    assert targets[0] == busy
    assert all(before - after == 5 for before, after in pairwise(targets[1:4]))  # 5 per step
    assert targets[-1] == workers_for(QUIET)


def test_who_is_needed_in_two_steps_does_not_leave_now():
    group = planner(BUSY)
    top = group.step(seen(0.0, ready_s=0.2)).target
    group.policy.rules = Rules(1, 64, hold_s=0.0)
    group.forecaster.means = [QUIET, BUSY]
    assert group.step(seen(1.0, ready_s=0.2)).target == top
    group.forecaster.means = [QUIET]
    assert group.step(seen(2.0, ready_s=0.2)).target < top


def test_reactive_groups_put_nothing_off():
    group = GroupPlanner(1.0, Goal(0.2, 0.05), Rules(1, 64, mode="reactive"), forecaster=Says(QUIET, BUSY))
    assert group.step(seen(ready_s=0.2)).soon == 0


def test_a_backlog_comes_on_top_of_what_is_expected():
    """Whether it came by chance or not: without it the present load would need fewer than the forecast."""
    calm = planner(BUSY).step(seen(ready_s=0.2, workers=30, running=30))
    held_up = planner(BUSY).step(seen(ready_s=0.2, workers=30, running=30, waiting=14))
    assert calm.reactive < calm.predicted < held_up.reactive
    assert held_up.target == held_up.reactive


def test_a_backlog_is_worked_off_by_workers_that_are_there_not_by_those_on_their_way():
    group = planner(QUIET)
    group.policy.target = 20
    few = group.step(seen(waiting=40, running=2, ready_s=0.2, workers=2)).reactive
    assert few > planner(QUIET).step(seen(waiting=40, running=2, ready_s=0.2, workers=20)).reactive


def test_a_jump_that_was_seen_twice_is_the_present_rate_a_single_spike_hardly_counts():
    present = PresentRate()
    for count in [10.0] * 50 + [110.0]:
        present.observe(count)
    assert present.value == pytest.approx(30.0)
    present.observe(110.0)
    assert present.value == 110.0
    for count in (10.0, 10.0):
        present.observe(count)
    assert present.value == 10.0


def test_no_more_workers_than_jobs_that_can_be_there():
    rare = planner(0.05)
    rare.forecaster.forecast = lambda h: (np.full(h, 0.05), np.zeros(h), np.full(h, 2.6))
    assert rare.step(seen(ready_s=0.2)).predicted == 2  # three at once are rarer than the goal
    assert most_arrivals(1.0, 4.0, 0.05) == pytest.approx(4.0, abs=0.01)
    assert most_arrivals(1.0, 4.0, 0.005) > 5.0


def test_counts_steadier_than_chance_need_less_but_only_as_far_as_they_are_known():
    assert arrival_cv2(100.0, 83.55, 116.45, 1.0) == pytest.approx(1.0, abs=0.01)  # Poisson
    assert arrival_cv2(100.0, 100.0, 100.0, 1.0) == 0.0
    assert arrival_cv2(100.0, 100.0, 100.0, 0.25) == 0.75
    assert arrival_cv2(100.0, 88.4, 111.6, 1.0) > 0.9  # half of the variance of chance: hardly believed
    assert arrival_cv2(100.0, 0.0, 300.0, 1.0) == 1.0  # what is worse than chance is the forecast's error
    assert arrival_cv2(0.0, 0.0, 0.0, 1.0) == 1.0


@pytest.mark.parametrize(("ready_s", "pace_s", "reach"), [(0.2, 0.0, 2), (12.0, 0.0, 13), (0.2, 0.1, 15)])
def test_steps_are_not_put_off_where_one_of_them_would_see_a_need(ready_s, pace_s, reach):
    idle = Observed(0.0, 0.0, service_s=0.5, ready_s=ready_s, pace_s=pace_s)
    for comes_in, may_rest in ((6 + reach, False), (7 + reach, True)):
        group = planner(*[0.0] * (comes_in - 1), BUSY)
        assert group.may_rest(idle, group.step(idle), 6) is may_rest


def test_they_are_not_put_off_either_where_a_narrow_band_needs_more_than_a_wide_one():
    idle = Observed(0.0, 0.0, service_s=0.2, ready_s=0.2)
    group = GroupPlanner(1.0, Goal(0.2, 0.05), Rules(2, 64))
    bands = [(0.0, 0.0, 0.0)] * 4 + [(4.6, 4.4, 4.8), (2.0, 0.0, 6.3)]
    group.forecaster.forecast = lambda h: tuple(np.array([*bands, *[bands[0]] * h][:h]).T)
    assert [group._predicted(idle, *band) for band in bands[4:]] == [3, 2]
    assert not group.may_rest(idle, group.step(idle), 6)
