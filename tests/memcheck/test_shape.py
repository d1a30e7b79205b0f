"""The shape of a day and the conversion of hours into jobs: exact, monotone, invertible."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmq.errors import ConfigError
from shmq.memcheck.shape import DayShape, Load, Plan

hourly = st.lists(st.floats(0, 100), min_size=24, max_size=24).filter(lambda h: max(h) > 0.01)
LOAD = Load(jobs_per_s=1000, failed_share=0.01, recycles_per_hour=50, scale_changes_per_hour=6)


def test_a_day_brings_24_hours_of_mean_load():
    assert DayShape().brought_by(24) == pytest.approx(24)
    assert DayShape().brought_by(72) == pytest.approx(72)


def test_nights_are_quieter_than_days():
    shape = DayShape()
    assert shape.pace(3) < 0.3
    assert shape.pace(10) > 1.5


@given(hourly, st.floats(0, 60))
def test_load_brought_is_the_area_under_the_pace(hours, hour):
    shape = DayShape(hours)
    step = 1e-4
    rise = (shape.brought_by(hour + step) - shape.brought_by(hour)) / step
    assert rise == pytest.approx(shape.pace(hour + step / 2), abs=0.02)


@given(hourly, st.floats(0, 60))
@example([1.1e-308, 6e-289, *[0.0] * 21, 1.0], 0.5)  # next to nothing, of which a root makes too much
def test_hour_of_undoes_brought_by(hours, hour):
    shape = DayShape(hours)
    brought = shape.brought_by(hour)
    assert shape.brought_by(shape.hour_of(brought)) == pytest.approx(brought, abs=1e-6)


def test_24_hours_in_10_minutes_are_144_times_as_fast():
    plan = Plan(24, 10, LOAD)
    assert plan.acceleration == 144
    assert plan.seconds == 600
    assert (plan.jobs, plan.failures, plan.recycles, plan.scale_changes) == (86_400_000, 864_000, 1200, 144)


def test_at_its_own_pace_an_hour_takes_an_hour():
    plan = Plan(2, None, LOAD)
    assert (plan.seconds, plan.acceleration) == (7200, 1)


def test_jobs_fall_due_along_the_day_and_all_in_the_end():
    plan = Plan(24, 10, LOAD)
    due = [plan.due(plan.jobs, s) for s in range(0, 601, 10)]
    assert due[0] == 0
    assert due[-1] == plan.jobs == plan.due(plan.jobs, 1e9)
    assert due == sorted(due)
    assert due[10] < plan.jobs / 6 / 3  # the first four hours are night


def test_pace_and_due_jobs_agree():
    plan = Plan(24, 10, LOAD)
    for second in (50, 250, 480):
        rate = (plan.due(plan.jobs, second + 1) - plan.due(plan.jobs, second - 1)) / 2
        assert rate == pytest.approx(plan.jobs_per_s(second), rel=0.02)


def test_a_run_cut_short_has_covered_some_of_its_hours():
    plan = Plan(24, 10, LOAD)
    assert plan.hours_covered(plan.jobs) == pytest.approx(24)
    assert plan.hours_covered(0) == 0
    assert plan.hours_covered(plan.due(plan.jobs, 300)) == pytest.approx(12, abs=0.01)
    assert plan.hours_covered(10 * plan.jobs) == pytest.approx(24)


def test_the_conversion_is_stated_in_words():
    words = Plan(24, 10, LOAD).words()
    for part in (
        "24 h of 1,000 jobs/s",
        "10 minutes",
        "86,400,000 jobs",
        "1,200 recycles",
        "144 times",
        "144,000 jobs/s",
    ):
        assert part in words
    assert "at its own pace" in Plan(1, None, LOAD).words()


@pytest.mark.parametrize(
    ("hours", "minutes", "load", "word"),
    [
        (0, 10, LOAD, "hours"),
        (24, -1, LOAD, "minutes"),
        (24, 10, Load(0), "jobs_per_s"),
        (24, 10, Load(1, failed_share=2), "failed_share"),
        (float("nan"), 10, LOAD, "hours"),
    ],
)
def test_impossible_plans_are_refused_by_name(hours, minutes, load, word):
    with pytest.raises(ConfigError, match=word):
        Plan(hours, minutes, load)


@pytest.mark.parametrize("hours", [[1.0] * 23, [0.0] * 24, [-1.0] + [1.0] * 23])
def test_impossible_days_are_refused(hours):
    with pytest.raises(ConfigError, match="24 numbers"):
        DayShape(hours)
