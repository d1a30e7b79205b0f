from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.planner.tuning import REST_WINDOWS, Climber, batch_size, ladder


def saturating(knee):
    """Throughput that grows with the setting up to the knee."""
    return lambda setting: 100.0 * min(setting, knee)


def driven(climber, throughput, windows, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    used = []
    for _ in range(windows):
        used.append(climber.setting)
        climber.observe(throughput(climber.setting) * (1 + noise * rng.standard_normal()), is_saturated=True)
    return used


@given(st.integers(1, 50), st.integers(0, 500))
def test_a_ladder_rises_from_bound_to_bound(least, more):
    rungs = ladder(least, least + more)
    assert rungs[0] == least
    assert rungs[-1] == least + more
    assert rungs == sorted(set(rungs))


@pytest.mark.parametrize(("least", "most"), [(0, 4), (5, 4)])
def test_bounds_out_of_order_are_refused(least, most):
    with pytest.raises(ValueError, match="no ladder"):
        ladder(least, most)


@pytest.mark.parametrize("start", [1, 4, 12, 64])
@pytest.mark.parametrize("knee", [1, 2, 8, 30, 64])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_knee_is_found_from_any_start(start, knee, noise):
    climber = Climber(ladder(1, 64), start)
    driven(climber, saturating(knee), 120, noise)
    assert climber.is_resting
    assert 0.9 * min(knee, 64) <= climber.setting <= 1.6 * knee
    assert f"{climber.setting}: the least" in climber.reason


def test_thrashing_is_left():
    climber = Climber(ladder(1, 64), 32)
    driven(climber, lambda setting: 1000.0 / (1 + abs(setting - 6)), 120)
    assert climber.setting == 6


def test_it_rests_without_oscillation():
    climber = Climber(ladder(1, 64), 2)
    used = driven(climber, saturating(8), 3000, noise=0.05)
    assert len(set(used[200:])) == 1


def test_bounds_are_never_left():
    climber = Climber(ladder(3, 20), 10)
    used = driven(climber, float, 300, noise=0.3)
    assert min(used) >= 3
    assert max(used) <= 20


def test_a_lasting_change_is_measured_again():
    climber = Climber(ladder(1, 64), 4)
    driven(climber, saturating(8), 200)
    driven(climber, saturating(30), 60 + 4 * REST_WINDOWS)
    before = climber.setting
    driven(climber, lambda setting: 30.0 * min(setting, 30), 60 + 4 * REST_WINDOWS)  # the jobs became slower
    assert before <= climber.setting
    assert 27 <= climber.setting <= 45


def test_a_load_that_keeps_changing_is_measured_ever_more_rarely():
    climber, climbs = Climber(ladder(1, 64), 8), []
    for window in range(6000):
        was_resting = climber.is_resting
        climber.observe((100.0 if window // 15 % 2 else 300.0) * min(climber.setting, 8), is_saturated=True)
        if was_resting and not climber.is_resting:
            climbs.append(window)
    assert 3 < len(climbs) < 12
    assert climbs[-1] - climbs[-2] > climbs[1] - climbs[0]


def test_windows_without_waiting_work_teach_nothing():
    climber = Climber(ladder(1, 64), 4)
    for _ in range(100):
        assert climber.observe(5.0, is_saturated=False) == 4
    assert not climber.is_resting


def test_a_ladder_of_one_rung_rests_there():
    climber = Climber([7], 1)
    driven(climber, saturating(3), 10)
    assert (climber.setting, climber.is_resting) == (7, True)


def test_no_rungs_are_refused():
    with pytest.raises(ValueError, match="without rungs"):
        Climber([], 1)


@pytest.mark.parametrize(("service_s", "size"), [(0.0, 64), (1e-6, 64), (0.0005, 4), (0.002, 1), (10.0, 1)])
def test_a_batch_lasts_as_long_as_it_should(service_s, size):
    assert batch_size(service_s, 0.002, 64) == size
