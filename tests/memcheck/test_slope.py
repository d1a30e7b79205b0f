"""The slope: right in the middle, honest at its ends, cheap for any number of readings."""

from __future__ import annotations

import numpy as np
import pytest

from shmq.memcheck.slope import MAX_PAIRS, blocks_for, floors, sen_slope


def noise(seed: int, n: int, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, n)


def drifting(seed: int, n: int, memory: float) -> np.ndarray:
    """Noise in which each reading keeps `memory` of the one before."""
    steps, out = noise(seed, n), np.zeros(n)
    for i in range(1, n):
        out[i] = memory * out[i - 1] + steps[i]
    return out


def test_a_line_has_its_slope_and_no_doubt():
    x = np.arange(30.0)
    fit = sen_slope([(x, 5 + 3 * x)])
    assert (fit.low, fit.mid, fit.high) == (3, 3, 3)


def test_a_quarter_of_wild_readings_does_not_bend_it():
    x = np.arange(60.0)
    y = 3 * x
    y[::4] += 10_000
    assert abs(sen_slope([(x, y)]).mid - 3) < 1.5


def test_the_interval_holds_the_truth_as_often_as_it_says():
    x = np.arange(40.0)
    fits = [sen_slope([(x, 0.5 * x + noise(seed, 40))]) for seed in range(300)]
    held = sum(fit.low <= 0.5 <= fit.high for fit in fits)
    assert held >= 290  # 99 % is promised


def test_correlated_noise_widens_the_interval():
    x = np.arange(60.0)
    wide = sum(fit.low <= 0 <= fit.high for fit in (sen_slope([(x, drifting(s, 60, 0.9))]) for s in range(200)))
    assert wide >= 190


def test_a_constant_has_slope_zero():
    fit = sen_slope([(np.arange(20.0), np.full(20, 7.0))])
    assert (fit.low, fit.mid, fit.high) == (0, 0, 0)


def test_levels_of_different_processes_do_not_matter():
    x = np.arange(6.0)
    groups = [(x, level + 2 * x + noise(i, 6, 0.1)) for i, level in enumerate((100.0, -5000.0, 30.0, 1e6))]
    assert sen_slope(groups).mid == pytest.approx(2, abs=0.1)


def test_nothing_to_compare_gives_none():
    assert sen_slope([]) is None
    assert sen_slope([(np.array([1.0]), np.array([2.0]))]) is None
    assert sen_slope([(np.array([1.0, 1.0]), np.array([2.0, 3.0]))]) is None


def test_a_million_readings_become_at_most_64_floors():
    x = np.arange(1e6)
    mids, lows = floors(x, x * 2, 64)
    assert len(mids) == len(lows) == 64
    assert np.all(np.diff(mids) > 0)


def test_floors_ignore_what_is_high_for_less_than_three_quarters_of_the_time():
    y = np.tile([1.0, 50.0, 1.0, 80.0], 100)
    assert set(floors(np.arange(400.0), y, 20)[1]) == {1.0}


def test_few_readings_stay_as_they_are():
    x = y = np.arange(5.0)
    assert all(np.array_equal(floors(x, y, 64, lowest=lowest)[1], y) for lowest in (False, True))


@pytest.mark.parametrize("groups", [1, 10, 1_000, 10_000])
def test_pairs_of_all_processes_together_are_bounded(groups):
    blocks = blocks_for(groups)
    assert blocks >= 4
    assert groups * blocks * (blocks - 1) / 2 <= max(MAX_PAIRS, groups * 6)
