from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from workers import computation
from workers.computation import count_primes, mandelbrot_tile, matrix_product, power_spectrum


def is_prime_by_trial(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


def is_prime_by_witnesses(number: int) -> bool:
    """Miller-Rabin; these bases decide everything below 3.4e14."""
    if number % 2 == 0:
        return number == 2
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    for base in (2, 3, 5, 7, 11, 13, 17):
        power = pow(base, (number - 1) >> twos, number)
        if power in (1, number - 1):
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


def test_primes_are_those_of_trial_division_for_every_small_range() -> None:
    primes = [is_prime_by_trial(n) for n in range(60)]
    for start in range(60):
        for stop in range(start, 60):
            assert count_primes(start, stop) == sum(primes[start:stop]), (start, stop)


@pytest.mark.parametrize(("power", "known"), [(3, 168), (5, 9592), (6, 78498), (7, 664579)])
def test_prime_counts_are_the_known_ones(power: int, known: int) -> None:
    assert count_primes(0, 10**power) == known


def test_ranges_side_by_side_add_up_across_sieve_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computation, "_SIEVE_SEGMENT", 97)
    edges = [0, 1, 2, 3, 1000, 1001, 54_321, 100_000]
    parts = [count_primes(low, high) for low, high in itertools.pairwise(edges)]
    assert sum(parts) == 9592


def test_primes_far_out_need_little_and_are_right() -> None:
    low = 10**12
    assert count_primes(low, low + 1000) == sum(map(is_prime_by_witnesses, range(low, low + 1000)))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (6, 5), (0, 10**14 + 1)])
def test_prime_bounds_out_of_range_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"range is {start} to {stop}"):
        count_primes(start, stop)


def test_matrix_product_is_the_sum_over_the_inner_axis() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.random((4, 7)), rng.random((7, 3))
    expected = [[math.fsum(left[i, k] * right[k, j] for k in range(7)) for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(matrix_product(left, right), expected, rtol=1e-13)
    assert matrix_product(np.ones((5, 2, 3)), np.ones((3, 4))).shape == (5, 2, 4)
    assert matrix_product(np.eye(2, dtype=np.int32), np.eye(2, dtype=np.int32)).dtype == np.int32


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), "3 columns do not fit 2 rows"),
        (np.ones(3), np.ones((3, 3)), r"left has shape \(3,\)"),
        (np.ones((2, 2)), np.array([["a"]]), "right is an array of <U1"),
        ([[1.0]], np.ones((1, 1)), "left is list"),
    ],
)
def test_matrices_that_do_not_fit_are_named(left: object, right: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matrix_product(left, right)


def escape_time(c: complex, most: int) -> int:
    x = y = 0.0
    for step in range(most):
        if x * x + y * y > 4.0:
            return step
        x, y = x * x - y * y + c.real, 2 * x * y + c.imag
    return most


def test_mandelbrot_equals_the_loop_over_single_points() -> None:
    tile = mandelbrot_tile(-2.0, -1.25, 0.5, 1.25, 40, 30, 100)
    expected = [
        [escape_time(complex(-2.0 + i * 2.5 / 40, -1.25 + j * 2.5 / 30), 100) for i in range(40)] for j in range(30)
    ]
    assert tile.dtype == np.uint16
    np.testing.assert_array_equal(tile, expected)


def test_mandelbrot_tiles_fit_together_to_the_whole() -> None:
    whole = mandelbrot_tile(-2.0, -1.0, 0.0, 1.0, 64, 64, 200)
    upper = [mandelbrot_tile(x, 0.0, x + 0.5, 1.0, 16, 32, 200) for x in (-2.0, -1.5, -1.0, -0.5)]
    lower = [mandelbrot_tile(x, -1.0, x + 0.5, 0.0, 16, 32, 200) for x in (-2.0, -1.5, -1.0, -0.5)]
    np.testing.assert_array_equal(np.block([lower, upper]), whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 0, 1, 4, 4), "is no rectangle"),
        ((0, 0, math.nan, 1, 4, 4), "is no rectangle"),
        ((0, 0, 1, 1, 0, 4), "0 x 4 pixels"),
        ((0, 0, 1, 1, 1 << 13, 1 << 12), "cut the picture"),
        ((0, 0, 1, 1, 4, 4, 70_000), "1 to 65535"),
    ],
)
def test_mandelbrot_refuses_what_is_no_tile(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mandelbrot_tile(*arguments)


@pytest.mark.parametrize("segment", [255, 256])
def test_spectrum_holds_the_power_of_the_signal_at_its_frequency(segment: int) -> None:
    rate = 1000.0
    tone = 3.0 * np.sin(2 * math.pi * 125.0 * np.arange(8192) / rate)
    frequencies, density = power_spectrum(tone, rate, segment)
    assert frequencies.shape == density.shape == (segment // 2 + 1,)
    assert abs(frequencies[np.argmax(density)] - 125.0) <= rate / segment
    assert np.sum(density) * rate / segment == pytest.approx(4.5, rel=0.01)  # Parseval: 3**2 / 2


def test_spectrum_counts_the_highest_frequency_once() -> None:
    alternating = np.tile([1.0, -1.0], 2048)
    _, density = power_spectrum(alternating, 1000.0, 256)
    assert np.sum(density) * 1000.0 / 256 == pytest.approx(1.0, rel=0.01)


def test_spectrum_refuses_bad_signals() -> None:
    with pytest.raises(ValueError, match="one axis"):
        power_spectrum(np.ones((2, 2)), 1.0, 8)
    with pytest.raises(ValueError, match="positive number"):
        power_spectrum(np.ones(100), 0.0, 8)
    with pytest.raises(ValueError, match="8 to 100"):
        power_spectrum(np.ones(100), 1.0, 101)


def test_arguments_may_be_read_only_views() -> None:
    array = np.ones((64, 64))
    array.flags.writeable = False
    matrix_product(array, array)
    power_spectrum(array[0], 1.0, 8)
