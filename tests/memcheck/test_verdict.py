"""Verdicts on made-up series: leaks are found, others are not called one, doubt is said with its remedy."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq.memcheck.shape import Load, Plan
from shmq.memcheck.verdict import LIMITS, Limit, judge, judge_all, overall, too_short
from shmq.memcheck.windows import Series
from tests.memcheck.made_up import (
    BASE,
    KIB,
    MIB,
    clock,
    drifting,
    in_arenas,
    realistic,
    series,
    trims,
    warm_up,
    white,
)

DAY_IN_10_MINUTES = 144.0
ANSWERS = re.compile(r"leak|no leak|too short to tell: run [1-9]\d* more minutes")


def answers(make, seeds=12, acceleration=1.0, jobs_per_s=200.0, t=None):
    """How often each answer came over many seeds; every one must have the exact form."""
    t = clock() if t is None else t
    counts = {"leak": 0, "no leak": 0, "too short": 0}
    for seed in range(seeds):
        value = make(np.random.default_rng(seed), t)
        verdict = judge([series(t, value, jobs_per_s=jobs_per_s)], acceleration=acceleration)
        assert ANSWERS.fullmatch(verdict.answer), verdict.answer
        counts["too short" if verdict.more_minutes else verdict.answer] += 1
    return counts


LEAKS = {
    "50 bytes per job at 1,000/s": lambda r, t: realistic(r, t, 50 * 1000),
    "50 bytes per job at 5,000/s": lambda r, t: realistic(r, t, 50 * 5000),
    "smooth": lambda r, t: BASE + 5_000 * t + white(r, t, 4 * KIB),
    "under noise with a memory": lambda r, t: BASE + 50_000 * t + drifting(r, t, 256 * KIB, 30),
    "below a cache that fills first": lambda r, t: BASE + 50_000 * t + warm_up(t, 20 * MIB, 60) + white(r, t, 64 * KIB),
    "begins late": lambda r, t: BASE + 50_000 * np.maximum(t - 300, 0) + white(r, t, 64 * KIB),
    "beside large jobs": lambda r, t: BASE + 50_000 * t + 80 * MIB * (r.random(len(t)) < 0.3),
}
NO_LEAKS = {
    "quiet": lambda r, t: BASE + warm_up(t) + white(r, t, KIB),
    "constant": lambda r, t: np.full(len(t), BASE),
    "noise": lambda r, t: BASE + white(r, t, 256 * KIB),
    "noise with a memory of 30 s": lambda r, t: BASE + drifting(r, t, 256 * KIB, 30),
    "noise with a memory of 120 s": lambda r, t: BASE + drifting(r, t, 256 * KIB, 120),
    "trims": realistic,
    "one step": lambda r, t: BASE + MIB * (t > r.uniform(100, 600)) + white(r, t, 4 * KIB),
    "two steps": lambda r, t: BASE + MIB * sum(t > r.uniform(100, 600) for _ in range(2)) + white(r, t, 4 * KIB),
    "three steps": lambda r, t: BASE + MIB * sum(t > r.uniform(100, 600) for _ in range(3)) + white(r, t, 4 * KIB),
    "saw of 7 s": lambda r, t: BASE + 5 * MIB * (((t + r.uniform(0, 7)) / 7) % 1),
    "saw of 60 s": lambda r, t: BASE + 5 * MIB * (((t + r.uniform(0, 60)) / 60) % 1),
    "saw of 200 s": lambda r, t: BASE + 5 * MIB * (((t + r.uniform(0, 200)) / 200) % 1),
    "saw whose last tooth is the last half": lambda r, t: BASE + 5 * MIB * ((t - 355) % 300 / 300) + white(r, t, KIB),
    "large jobs": lambda r, t: BASE + 100 * MIB * (r.random(len(t)) < 0.3) + white(r, t, 64 * KIB),
    "peak of the load": lambda r, t: BASE + 10 * MIB * np.sin(np.pi * t / t[-1]) ** 2 + white(r, t, 128 * KIB),
    "falls": lambda r, t: BASE + 30 * MIB - 20_000 * t + white(r, t, 64 * KIB),
    **{
        f"cache that levels off in {tau} s": lambda r, t, tau=tau: (
            BASE + warm_up(t, 50 * MIB, tau) + white(r, t, 64 * KIB)
        )
        for tau in (30, 60, 120, 200, 300, 400)
    },
    **{
        f"cache that is full at {share:.0%}": lambda r, t, share=share: (
            BASE + 50 * MIB * np.minimum(t / (share * t[-1]), 1) + white(r, t, 64 * KIB)
        )
        for share in (0.15, 0.3, 0.5, 0.7)
    },
}


@pytest.mark.parametrize("name", LEAKS)
def test_leak_is_found_within_ten_minutes(name):
    assert answers(LEAKS[name])["leak"] >= 11


@pytest.mark.parametrize("name", LEAKS)
def test_leak_is_found_in_an_accelerated_run(name):
    assert answers(LEAKS[name], acceleration=DAY_IN_10_MINUTES, jobs_per_s=200)["leak"] >= 11


@pytest.mark.parametrize("name", NO_LEAKS)
def test_what_is_no_leak_is_not_called_one(name):
    assert answers(NO_LEAKS[name], seeds=16)["leak"] <= 1


@pytest.mark.parametrize("name", NO_LEAKS)
def test_a_day_of_jobs_without_a_leak_is_called_so(name):
    """Accelerated, ten minutes are the whole day: there is nothing left to wait for."""
    said = answers(NO_LEAKS[name], acceleration=DAY_IN_10_MINUTES)
    assert said["leak"] == 0
    assert said["no leak"] >= 11


@pytest.mark.parametrize("name", ["quiet", "constant", "saw of 7 s", "large jobs", "falls"])
def test_calm_series_need_no_acceleration(name):
    assert answers(NO_LEAKS[name])["no leak"] >= 11


def test_a_cache_that_has_filled_up_is_called_clean_when_it_is_quiet_afterwards():
    make = lambda r, t: BASE + 50 * MIB * np.minimum(t / 250, 1) + white(r, t, 2 * KIB)
    assert answers(make)["no leak"] == 12


def test_fifty_bytes_per_job_are_a_leak_even_where_a_day_brings_few_jobs():
    """400 jobs/s for ten minutes, called a day: 12 MB, under its limit, over the one per job."""
    make = lambda r, t: realistic(r, t, 50 * 400)
    assert answers(make, acceleration=DAY_IN_10_MINUTES, jobs_per_s=400)["leak"] >= 11


def test_the_warm_up_counts_for_nothing():
    t = clock()
    value = BASE + 20_000 * t
    wild = np.where(t < 119, 500 * MIB * np.sin(t), value)
    verdict = judge([series(t, wild)])
    assert verdict == judge([series(t, value)])
    assert "7.9 minutes" in verdict.reason


def test_too_little_to_tell_says_how_long():
    t = clock(minutes=0.3)
    verdict = judge([series(t, np.full(len(t), BASE))])
    assert verdict.answer == f"too short to tell: run {verdict.more_minutes} more minutes"
    assert verdict.more_minutes >= 1
    assert "readings" in verdict.reason


def test_running_as_long_as_was_asked_brings_an_answer():
    minutes, make = 3.0, lambda r, t: BASE + white(r, t, 256 * KIB)
    for _ in range(6):
        t = clock(minutes)
        verdict = judge([series(t, make(np.random.default_rng(5), t))])
        if verdict.more_minutes is None:
            break
        minutes += verdict.more_minutes
    assert verdict.answer == "no leak"


def test_slopes_are_given_per_hour_and_per_1000_jobs():
    t = clock()
    verdict = judge([series(t, BASE + 20_000 * t, jobs_per_s=400)])
    assert verdict.answer == "leak"
    assert verdict.per_hour.mid == pytest.approx(20_000 * 3600, rel=0.01)
    assert verdict.per_1000_jobs.mid == pytest.approx(50_000, rel=0.01)
    assert verdict.per_day.mid == pytest.approx(20_000 * 86_400, rel=0.01)
    assert verdict.per_hour.low <= verdict.per_hour.mid <= verdict.per_hour.high


def test_without_a_job_count_there_is_no_slope_per_job():
    t = clock()
    verdict = judge([Series("worker", "worker 1", "rss_anon_bytes", t, BASE + 20_000 * t)])
    assert verdict.per_1000_jobs is None
    assert verdict.grows_with == "clock"
    assert verdict.is_leak


def test_growth_by_the_clock_is_told_from_growth_by_jobs():
    """The load follows a day: a timer's leak is straight over the clock, that of jobs over their count."""
    t = clock()
    jobs = np.cumsum(2000 * (1 + 0.9 * np.sin(2 * np.pi * t / 600)))
    by_clock = judge([series(t, BASE + 2_000 * t, jobs=jobs)], acceleration=DAY_IN_10_MINUTES)
    by_jobs = judge([series(t, BASE + 50 * jobs, jobs=jobs)], acceleration=DAY_IN_10_MINUTES)
    assert (by_clock.grows_with, by_clock.answer) == ("clock", "leak")
    assert by_clock.per_day.mid == pytest.approx(2_000 * 86_400, rel=0.05)
    assert (by_jobs.grows_with, by_jobs.answer) == ("jobs", "leak")


def working_day(t, jobs: int) -> np.ndarray:
    """Jobs done by each time when a day of load is squeezed into the run."""
    plan = Plan(24, t[-1] / 60, Load(jobs / 86_400))
    return np.array([plan.due(jobs, at) for at in t], float)


def test_a_leak_by_jobs_is_found_although_the_evening_brings_fewer():
    """100 bytes per job, 29,000 jobs in a minute: over the clock it seems to slow down, over the jobs it does not."""
    t = clock(minutes=1, every_s=0.2)
    jobs = working_day(t, 29_000)
    found = judge([series(t, BASE + in_arenas(105 * jobs, 4 * KIB), jobs=jobs)], acceleration=1440)
    assert (found.grows_with, found.answer) == ("jobs", "leak")
    assert found.per_1000_jobs.mid == pytest.approx(105_000, rel=0.02)
    counted = judge([series(t, np.floor(jobs / 20), jobs=jobs, quantity="descriptors")], acceleration=1440)
    assert counted.answer == "leak"


def test_a_count_that_follows_the_load_is_no_leak():
    """Slots in use go up and down with every round; now and then few are."""
    t, r = clock(every_s=0.67), np.random.default_rng(0)
    jobs = working_day(t, 10_000_000)
    pace = np.gradient(jobs, t)
    used = r.uniform(0, 1, len(t)) ** 2 * pace / pace.max() * 3000
    found = judge([series(t, used, jobs=jobs, quantity="jobs_in_table")], acceleration=DAY_IN_10_MINUTES)
    assert found.answer == "no leak"


def test_an_idle_process_is_judged_by_the_clock():
    t = clock()
    verdict = judge([series(t, np.full(len(t), BASE), jobs=np.full(len(t), 5.0))])
    assert (verdict.grows_with, verdict.answer) == ("clock", "no leak")


@pytest.mark.parametrize(("leak_per_s", "expected"), [(0, "no leak"), (18_000, "too short"), (40_000, "leak")])
def test_replaced_workers_are_judged_together(leak_per_s, expected):
    """Each lives for 20 s, warms up, starts again from the fork server's level. A third of a MiB, steadily, is what any
    process gains until it has warmed up.
    """
    r, lives = np.random.default_rng(3), []
    for number in range(30):
        t = clock(20 / 60, every_s=1.0) + 20 * number
        age = t - t[0]
        value = BASE + r.uniform(-MIB, MIB) + warm_up(age, 2 * MIB, 1.0) + leak_per_s * age + white(r, age, 16 * KIB)
        lives.append(series(t, value, jobs=age * 1000, name=f"worker {number}"))
    verdict = judge(lives, acceleration=DAY_IN_10_MINUTES)
    assert verdict.answer.startswith(expected)
    assert verdict.processes == 30


def test_workers_that_live_too_briefly_say_so():
    lives = [series(np.arange(3.0) + 3 * i, np.full(3, BASE), name=f"worker {i}") for i in range(100)]
    verdict = judge(lives)
    assert verdict.more_minutes
    assert "replaced too soon" in verdict.reason


def test_descriptors_leak_by_count():
    t = clock()
    leaking = judge([series(t, 12 + np.floor(t / 20), quantity="descriptors")])
    steady = judge([series(t, 12 + (t % 30 > 15), quantity="descriptors")])
    assert (leaking.answer, steady.answer) == ("leak", "no leak")


def test_flat_line_is_not_trusted_beyond_its_grain():
    """Ten seconds at one descriptor's resolution cannot exclude 200 descriptors a day."""
    t = np.arange(0, 10, 0.2)
    assert judge([series(t, np.full(50, 9.0), quantity="descriptors")]).more_minutes


def test_a_limit_of_ones_own_decides():
    t = clock()
    value = BASE + 500 * t
    strict = judge([series(t, value)], limits={"rss_anon_bytes": Limit(1e6, 4096)})
    lenient = judge([series(t, value)], limits={"rss_anon_bytes": Limit(1e9, 4096)})
    assert (strict.answer, lenient.answer) == ("leak", "no leak")


def test_run_is_judged_per_process_and_quantity_with_replaced_ones_pooled():
    t = clock()
    lasting = [
        series(t, BASE + 0 * t, name=f"worker {i}", quantity=q) for i in (1, 2) for q in ("rss_anon_bytes", "threads")
    ]
    replaced = [series(clock(1) + 60 * i, np.full(30, BASE), name=f"worker {i}") for i in range(3, 9)]
    found = judge_all([*lasting, *replaced], acceleration=DAY_IN_10_MINUTES)
    assert [(v.name, v.quantity) for v in found] == [
        ("worker 1", "rss_anon_bytes"),
        ("worker 2", "rss_anon_bytes"),
        ("worker: 6 replaced", "rss_anon_bytes"),
        ("worker 1", "threads"),
        ("worker 2", "threads"),
    ]
    assert overall(found) == "no leak"


def test_rare_readings_of_pss_do_not_hold_up_the_verdict():
    t = clock()
    rare = series(t[::60], np.full(5, BASE), quantity="pss_anon_bytes")
    found = judge_all([series(t, np.full(len(t), BASE)), rare], acceleration=DAY_IN_10_MINUTES)
    assert [v.quantity for v in found] == ["rss_anon_bytes"]


def test_the_worst_answer_is_that_of_the_run():
    t, short = clock(), clock(0.2)
    leak = judge([series(t, BASE + 50_000 * t)])
    clean = judge([series(t, np.full(len(t), BASE))])
    open_ = judge([series(short, np.full(len(short), BASE))])
    assert overall([clean, open_, leak]) == "leak"
    assert overall([clean, open_]) == open_.answer
    assert overall([clean, clean]) == "no leak"
    assert overall([]) == too_short(1)


def test_every_quantity_that_is_recorded_has_a_limit():
    from shmq.memcheck.recording import QUANTITIES

    assert set(QUANTITIES) <= set(LIMITS)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=80),
    gap=st.sampled_from([0.0, 0.01, 1.0, 3600.0]),
    acceleration=st.sampled_from([1.0, 144.0, 1e6]),
)
def test_any_readings_get_one_of_the_three_answers(values, gap, acceleration):
    t = np.arange(len(values)) * gap
    verdict = judge([series(t, np.array(values))], acceleration=acceleration)
    assert ANSWERS.fullmatch(verdict.answer)


def test_trims_do_not_hide_a_leak():
    make = lambda r, t: BASE + in_arenas(50_000 * t) + trims(r, t, every_s=45, depth=4 * MIB)
    assert answers(make)["leak"] >= 11
