from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from shmq.errors import ConfigError
from shmq.planner.backtest import (
    Queue,
    Series,
    Setting,
    backtest,
    learned,
    read_series,
    running_accuracy,
    typical_service_s,
)
from shmq.planner.backtest.plot import plot
from shmq.planner.staffing import Goal, Load, miss_probability
from tests.planner.loads import daily

STEP_S = 1800.0


@pytest.fixture(scope="module")
def outcome():
    series = Series("daily", STEP_S, np.array(daily(28, mean=100)))
    setting = Setting(typical_service_s(series, 32), Goal(60.0, 0.05), max_workers=32)
    return backtest(series, setting)


def run(outcome, name):
    return next(run for run in outcome.runs if run.name == name)


def test_the_forecast_is_scored_per_horizon(outcome):
    assert [score.horizon for score in outcome.scores] == [1, 5, 15]
    for score in outcome.scores:
        assert score.accuracy > 0.8
        assert 0.85 < score.coverage < 0.95
        assert 0.02 < score.above < 0.09


def test_the_ways_of_scaling_are_in_order(outcome):
    predictive, reactive = run(outcome, "predictive"), run(outcome, "reactive")
    oracle, fixed = run(outcome, "oracle"), run(outcome, "fixed")
    assert predictive.late_share < reactive.late_share
    assert predictive.late_share < 0.06
    assert oracle.worker_seconds <= predictive.worker_seconds < fixed.worker_seconds
    assert fixed.late_share <= predictive.late_share
    assert fixed.spawns == fixed.reaps == 0


def test_arrays_cover_the_scored_steps(outcome):
    n = len(outcome.series.counts) - outcome.first
    assert len(outcome.counts) == len(outcome.mean) == len(outcome.low) == len(outcome.high) == n
    assert all(len(run.workers) == n for run in outcome.runs)
    assert np.abs(outcome.counts - outcome.mean).mean() < 0.3 * outcome.counts.mean()


def test_a_later_load_changes_no_earlier_decision():
    counts = np.array(daily(12))
    setting = Setting(200.0, Goal(60.0, 0.05))
    whole = run(backtest(Series("a", STEP_S, counts), setting), "predictive").workers
    changed = np.concatenate([counts[:400], 5 * counts[400:]])
    other = run(backtest(Series("b", STEP_S, changed), setting), "predictive").workers
    first = len(counts) // 4
    assert np.array_equal(whole[: 401 - first], other[: 401 - first])


def test_a_slow_start_costs_jobs():
    series = Series("daily", 600.0, np.array(daily(6, step_s=600.0, mean=300)))
    setting = Setting(30.0, Goal(5.0, 0.05), ready_s=0.5)
    quick, slow = (backtest(series, replace(setting, ready_s=ready_s)) for ready_s in (0.5, 6000.0))
    assert run(slow, "reactive").late_share > run(quick, "reactive").late_share


def test_the_queue_without_backlog_is_erlangs():
    setting = Setting(2.0, Goal(1.0, 0.05))
    step = Queue(setting, 60.0).step(90.0, 5)
    assert step.late / 90 == pytest.approx(miss_probability(5, Load(1.5, 2.0), 1.0))
    assert step.departures == 90


def test_the_queue_keeps_what_it_cannot_serve():
    queue = Queue(Setting(1.0, Goal(5.0, 0.05)), 60.0)
    step = queue.step(240.0, 2)  # 4 per second, 2 served
    assert queue.backlog == pytest.approx(120)
    # The backlog of 2 per second reaches the 10 jobs that are 5 s of work after 5 s: 55 of 60 s are late.
    assert step.late / 240 == pytest.approx(55 / 60)
    queue.step(0.0, 2)
    assert queue.backlog == 0


def test_a_sleeping_group_wakes_for_its_first_job():
    queue = Queue(Setting(1.0, Goal(5.0, 0.05)), 60.0)
    assert queue.step(3.0, 0).departures == 3


@pytest.mark.parametrize(
    ("text", "step_s"),
    [
        ("# name: load\n# step_seconds: 60\ncount\n" + "3\n4\n" * 60, None),
        ("3\n4\n" * 60, 60.0),
        ("time,count\n" + "2024-01-01 00:00,3\n2024-01-01 00:01,4\n" * 60, 60.0),
    ],
    ids=["with header", "plain", "with times"],
)
def test_counts_are_read(tmp_path, text, step_s):
    path = tmp_path / "load.csv"
    path.write_text(text)
    series = read_series(path, step_s)
    assert series.name == "load"
    assert series.step_s == 60.0
    assert series.counts[:4].tolist() == [3, 4, 3, 4]
    assert len(series.counts) == 120


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3\n" * 200, "give --step SECONDS"),
        ("# step_seconds: soon\n" + "3\n" * 200, "step_seconds is 'soon'"),
        ("# step_seconds: 60\n" + "3\n" * 50, "holds 50 counts"),
        ("# step_seconds: 60\n" + "3\n" * 200 + "many\n", "line 202: 'many' is no count"),
        ("# step_seconds: 60\n" + "3\n" * 200 + "-1\n", "line 202: '-1' is no count"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_do(tmp_path, text, words):
    path = tmp_path / "load.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_series(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        read_series(tmp_path / "none.csv")


def test_running_accuracy():
    assert running_accuracy([10, 10], [8, 12]) == pytest.approx(0.8)
    assert running_accuracy([], []) == 0.0


def test_what_was_learned_offline_is_a_forecaster_to_start_from():
    series = Series("daily", STEP_S, np.array(daily(4)))
    assert learned(series).t == len(series.counts)


def test_the_plot_is_a_picture(outcome, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    plot(outcome, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_matplotlib_the_error_says_how_to_get_it(outcome, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'shmq\[plot\]'"):
        plot(outcome, tmp_path / "plot.png")
