from __future__ import annotations

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import shmq.planner.forecast
from shmq.planner.forecast import Forecaster
from shmq.planner.forecast.pending import HORIZON
from tests.planner.loads import daily, flat


def fed(counts, step_s=1800.0):
    forecaster = Forecaster(step_s)
    for count in counts:
        forecaster.update(count)
    return forecaster


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def coverage(counts, step_s, horizon, first):
    forecaster, inside = Forecaster(step_s), []
    for t, count in enumerate(counts):
        forecaster.update(count)
        if first <= t < len(counts) - horizon:
            _, low, high = forecaster.forecast(horizon)
            inside.append(low[-1] <= counts[t + horizon] <= high[-1])
    return np.mean(inside)


def test_a_forecast_knows_nothing_of_what_comes_later():
    counts = daily(20)
    seen = {}
    whole = Forecaster(1800.0)
    for t, count in enumerate(counts):
        whole.update(count)
        if t in {10, 300, 700}:
            seen[t] = [array.copy() for array in whole.forecast(15)]
    for t, forecast in seen.items():
        assert same(fed(counts[: t + 1]).forecast(15), forecast)


OPENED: list[str] = []
IS_WATCHED = [False]
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" and IS_WATCHED[0] else None)


def test_no_file_is_looked_at():
    counts = daily(2)
    IS_WATCHED[0] = True
    fed(counts).forecast(40)
    IS_WATCHED[0] = False
    assert not OPENED


def imported(path):
    """Names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_that_tells_the_time_is_imported():
    allowed = ("__future__.", "math", "typing.", "numpy", "shmq.planner.forecast.")
    signatures = {"os.PathLike", "pathlib.Path"}
    modules = [path for path in Path(shmq.planner.forecast.__file__).parent.glob("*.py") if path.stem != "state"]
    assert len(modules) > 5
    for path in modules:
        assert [name for name in imported(path) if not name.startswith(allowed) and name not in signatures] == []


def test_a_forecast_changes_nothing():
    counts = daily(10)
    asked, silent = Forecaster(1800.0), Forecaster(1800.0)
    for count in counts:
        asked.update(count)
        silent.update(count)
        asked.forecast(15)
        asked.forecast(40)
    assert same(asked.forecast(15), silent.forecast(15))


def test_what_is_returned_belongs_to_the_caller():
    forecaster = fed(flat(100, 20))
    first = forecaster.forecast(5)
    for array in first:
        array[:] = -1
    assert (forecaster.forecast(5)[0] > 0).all()


@pytest.mark.parametrize("h_steps", [0, 1, 5, 15, 16, 100, 1000])
def test_there_are_as_many_steps_as_asked_for(h_steps):
    mean, low, high = fed(daily(3)).forecast(h_steps)
    assert len(mean) == len(low) == len(high) == h_steps
    assert np.isfinite(mean).all()
    assert np.isfinite(high).all()
    assert (low >= 0).all()


def test_nothing_seen_forecasts_nothing():
    mean, low, high = Forecaster(1.0).forecast(15)
    assert not mean.any()
    assert not low.any()
    assert not high.any()


def test_from_the_first_count_on_the_forecast_is_near():
    forecaster = Forecaster(60.0)
    for count in flat(30, 100):
        forecaster.update(count)
        mean, low, high = forecaster.forecast(15)
        assert np.all((mean > 60) & (mean < 150))
        assert np.all((low < mean) & (mean < high))


def test_a_season_is_learned():
    counts = daily(21, mean=200)
    forecaster, errors, naive = Forecaster(1800.0), [], []
    for t, count in enumerate(counts):
        forecaster.update(count)
        if t > len(counts) // 2 and t + 10 < len(counts):
            errors.append(abs(forecaster.forecast(10)[0][-1] - counts[t + 10]))
            naive.append(abs(count - counts[t + 10]))
    assert np.mean(errors) < 0.2 * np.mean(naive)


def test_what_happens_at_the_same_minute_of_each_hour_is_learned():
    counts = [400.0 if t % 60 == 7 else 50.0 for t in range(60 * 20)]
    forecaster = fed(counts[: 60 * 19 + 5], step_s=60.0)  # the spike is in the third step ahead
    mean, _, _ = forecaster.forecast(5)
    assert int(mean.argmax()) == 2
    assert mean[2] > 2 * mean[1]


def test_a_new_level_is_followed():
    forecaster = fed(flat(500, 20) + flat(60, 200, seed=1), step_s=60.0)
    mean, _, high = forecaster.forecast(15)
    assert 150 < mean.mean() < 250
    assert (high > 180).all()


@pytest.mark.parametrize(("mean", "horizon"), [(0.2, 1), (3.0, 1), (100.0, 15), (10_000.0, 1)])
def test_the_band_holds_nine_in_ten(mean, horizon):
    assert 0.87 <= coverage(flat(2500, mean), 60.0, horizon, 600) <= 0.93


def test_the_band_holds_nine_in_ten_of_a_load_that_is_mostly_zero():
    counts = [c if t % 48 > 28 else 0.0 for t, c in enumerate(daily(45, mean=8))]
    assert np.mean(np.array(counts) == 0) > 0.55
    assert 0.86 <= coverage(counts, 1800.0, 1, 700) <= 0.94


@pytest.mark.parametrize("step_s", [0.1, 1.0, 10.0, 60.0, 61.7, 300.0, 3600.0, 7200.0, 86_400.0, 1e6])
def test_memory_is_bounded_for_any_step(step_s):
    forecaster = fed(flat(200, 10), step_s)
    before = forecaster.nbytes
    for count in flat(500, 10):
        forecaster.update(count)
    assert forecaster.nbytes == before < 2 << 20
    assert np.isfinite(forecaster.forecast(30)[0]).all()


def test_the_history_wraps_without_a_trace():
    week = 336
    counts = daily(40)  # the buffer is moved several times
    forecaster = fed(counts)
    rows, end = forecaster.features.history.rows, forecaster.features.history.end
    assert np.allclose(rows[end - week : end, 1] ** 2, counts[-week:])


@pytest.mark.parametrize("step_s", [1.0, 7.0, 20.0, 60.0, 1800.0])
def test_each_step_ahead_sees_the_same_time_a_day_ago(step_s):
    history = Forecaster(step_s).features.history
    day, last = history.day * history.steps_per_bin, int(1.3 * history.day * history.steps_per_bin)
    for t in range(last + 1):
        history.append(float(t))
    back = history.ahead(history.day, 0, 3)[:, 1]
    off = np.abs(back - (last + np.arange(1, HORIZON + 1) - day))
    assert off.max() <= (history.steps_per_bin if history.steps_per_bin > 1 else 0)


def test_a_period_shorter_than_the_horizon_is_seen_too():
    history = Forecaster(7200.0).features.history  # a day of twelve steps, fifteen ahead
    for t in range(60):
        history.append(float(t % 12))
    assert history.ahead(history.day, 1, 2)[:, 0].tolist() == [float((60 + h) % 12) for h in range(HORIZON)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_count_is_refused_and_leaves_no_trace(bad):
    forecaster = fed(flat(50, 5))
    before = [array.copy() for array in forecaster.forecast(15)]
    with pytest.raises(ValueError, match="no number of arrivals"):
        forecaster.update(bad)
    assert same(forecaster.forecast(15), before)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_step_without_length_is_refused(bad):
    with pytest.raises(ValueError, match="step_seconds"):
        Forecaster(bad)


@pytest.mark.parametrize(
    "counts",
    [[0.0] * 1500, [1e12] * 1500, [0.0] * 500 + [1e9] + [0.0] * 1000, [5.0] * 1500, [0.0, 1e6] * 750],
    ids=["zero", "huge", "one flood", "constant", "extremes"],
)
def test_odd_loads_keep_it_finite(counts):
    forecaster = fed(counts, 300.0)
    for array in forecaster.forecast(20):
        assert np.isfinite(array).all()
        assert (array >= 0).all()
        assert (array <= 16 * max(counts) + 10).all()
    for part in (forecaster.regression, forecaster.mixture, forecaster.bands):
        for value in vars(part).values():
            assert np.isfinite(value).all()


def test_steps_unseen_keep_the_phase_of_the_day():
    counts = daily(14, mean=400)
    stopped = fed(counts[:500])
    stopped.skip(31)
    for count in counts[531:540]:
        stopped.update(count)
    mean, _, _ = stopped.forecast(15)
    assert np.abs(mean - counts[540:555]).mean() < 0.25 * np.mean(counts[540:555])


def test_steps_unseen_before_the_first_day_is_full_do_no_harm():
    forecaster = fed(flat(10, 30))
    forecaster.skip(1000)
    for count in flat(40, 30):
        forecaster.update(count)
    assert 20 < forecaster.forecast(1)[0][0] < 40


def test_steps_unseen_keep_the_minute_of_the_hour():
    counts = [400.0 if t % 60 == 7 else 50.0 for t in range(60 * 19 + 20)]
    stopped = fed(counts, step_s=60.0)
    stopped.skip(40)  # to minute 0 of the next hour
    for _ in range(4):
        stopped.update(50.0)
    assert int(stopped.forecast(5)[0].argmax()) == 3
