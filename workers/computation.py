"""Tasks for the `computation` group: numeric kernels on numpy. All are pure functions of their arguments.

Each bounds its working memory. Large ranges and pictures are best cut into many jobs of some milliseconds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shmq

MAX_PRIME_BOUND = 10**14
MAX_TILE_PIXELS = 1 << 24
_SIEVE_SEGMENT = 1 << 19


@shmq.task(group="computation", retries=0, timeout=600.0, idempotent=True)
def count_primes(start: int, stop: int) -> int:
    """Count the primes p with start <= p < stop. Idempotent: a pure function.

    Segmented sieve of Eratosthenes over odd numbers (Bays and Hudson, BIT 17, 1977): memory grows with the
    square root of `stop`, so ranges far out can be counted by jobs side by side.

    Args:
        start, stop: 0 <= start <= stop <= 10**14.

    Raises:
        ValueError: bounds out of order or out of range.
    """
    if not 0 <= start <= stop <= MAX_PRIME_BOUND:
        raise ValueError(f"range is {start} to {stop}: expected 0 <= start <= stop <= {MAX_PRIME_BOUND}")
    if stop <= 2:
        return 0
    base = _odd_primes_to(math.isqrt(stop - 1))
    count = 1 if start <= 2 else 0
    low = max(start, 3) | 1
    while low < stop:
        high = min(low + 2 * _SIEVE_SEGMENT, stop)
        count += _count_odd_primes(low, high, base)
        low += 2 * _SIEVE_SEGMENT
    return count


@shmq.task(group="computation", retries=0, timeout=600.0, idempotent=True)
def matrix_product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Multiply two matrices, or two stacks of them, as `left @ right` does. Idempotent: a pure function.

    Args:
        left, right: numeric arrays of shapes (..., m, k) and (..., k, n); leading axes broadcast.

    Returns:
        An array of shape (..., m, n).

    Raises:
        ValueError: not matrices, not numeric, or shapes that do not fit, which are named.
    """
    for name, array in (("left", left), ("right", right)):
        _check_numeric(name, array)
        if array.ndim < 2:
            raise ValueError(f"{name} has shape {array.shape}: expected a matrix; reshape a vector to (n, 1) or (1, n)")
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"left has shape {left.shape}, right {right.shape}: {left.shape[-1]} columns do not fit "
            f"{right.shape[-2]} rows; is one of them transposed?"
        )
    product: NDArray[Any] = np.matmul(left, right)
    return product


@shmq.task(group="computation", retries=0, timeout=600.0, idempotent=True)
def mandelbrot_tile(
    left: float, bottom: float, right: float, top: float, columns: int, rows: int, max_iterations: int = 256
) -> NDArray[np.uint16]:
    """Escape times of one rectangle of the Mandelbrot set. Idempotent: a pure function.

    Column i is at `left + i * (right - left) / columns`, row j at `bottom + j * (top - bottom) / rows`: tiles
    that share an edge fit together without a seam.

    Args:
        left, bottom, right, top: corners in the complex plane.
        columns, rows: pixels, together at most 2**24.
        max_iterations: 1 to 65,535.

    Returns:
        Array of shape (rows, columns): after how many steps z -> z*z + c left the circle of radius 2,
        `max_iterations` where it did not.

    Raises:
        ValueError: empty or endless rectangle, too many pixels or iterations.
    """
    if not all(map(math.isfinite, (left, bottom, right, top))) or not (left < right and bottom < top):
        raise ValueError(
            f"tile ({left}, {bottom}) to ({right}, {top}) is no rectangle: "
            "expected finite numbers, left < right and bottom < top"
        )
    if columns < 1 or rows < 1 or columns * rows > MAX_TILE_PIXELS:
        raise ValueError(
            f"{columns} x {rows} pixels: expected at least 1 x 1 and together at most {MAX_TILE_PIXELS}; "
            "cut the picture into tiles"
        )
    if not 1 <= max_iterations <= 65_535:
        raise ValueError(f"max_iterations is {max_iterations}: expected 1 to 65535")
    real = left + np.arange(columns) * (right - left) / columns
    imag = bottom + np.arange(rows) * (top - bottom) / rows
    c_real, c_imag = np.tile(real, rows), np.repeat(imag, columns)
    return _escape_times(c_real, c_imag, max_iterations).reshape(rows, columns)


@shmq.task(group="computation", retries=0, timeout=600.0, idempotent=True)
def power_spectrum(
    signal: NDArray[Any], sample_rate_hz: float, segment_samples: int = 1024
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power spectral density of a real signal. Idempotent: a pure function.

    Averaged periodograms of half-overlapping Hann-windowed segments with their mean removed (Welch, IEEE
    Transactions on Audio and Electroacoustics 15, 1967).

    Args:
        signal: one-dimensional real array, at least one segment long.
        sample_rate_hz: samples per second, more than 0.
        segment_samples: 8 up to the length of the signal; longer resolves finer, shorter is smoother.

    Returns:
        Frequencies in Hz and density in units squared per Hz, both of shape (segment_samples // 2 + 1,).

    Raises:
        ValueError: wrong shape or type, rate or segment length out of range.
    """
    _check_numeric("signal", signal)
    if signal.ndim != 1 or np.iscomplexobj(signal):
        raise ValueError(f"signal has shape {signal.shape} and type {signal.dtype}: expected one axis of real numbers")
    if not (math.isfinite(sample_rate_hz) and sample_rate_hz > 0):
        raise ValueError(f"sample_rate_hz is {sample_rate_hz}: expected a positive number")
    if not 8 <= segment_samples <= signal.size:
        raise ValueError(f"segment_samples is {segment_samples}: expected 8 to {signal.size}, the length of the signal")
    window = np.hanning(segment_samples + 1)[:-1]  # periodic: the doubled end point would smear the lines
    total = np.zeros(segment_samples // 2 + 1)
    starts = range(0, signal.size - segment_samples + 1, segment_samples // 2)
    for start in starts:
        segment = signal[start : start + segment_samples].astype(np.float64)
        total += np.abs(np.fft.rfft((segment - segment.mean()) * window)) ** 2
    density = total / (len(starts) * sample_rate_hz * np.sum(window**2))
    mirrored = slice(1, None if segment_samples % 2 else -1)
    density[mirrored] *= 2  # the negative frequencies' share
    frequencies: NDArray[np.float64] = np.fft.rfftfreq(segment_samples, 1 / sample_rate_hz).astype(np.float64)
    return frequencies, density


def _odd_primes_to(bound: int) -> NDArray[np.int64]:
    is_prime = np.ones((bound + 1) // 2, dtype=bool)  # entry i stands for 2i + 1
    is_prime[:1] = False
    for i in range(1, (math.isqrt(bound) + 1) // 2):
        if is_prime[i]:
            is_prime[2 * i * (i + 1) :: 2 * i + 1] = False
    return 2 * np.flatnonzero(is_prime) + 1


def _count_odd_primes(low: int, high: int, base: NDArray[np.int64]) -> int:
    """Primes among the odd numbers low, low + 2, ... below high; `low` is odd and at least 3."""
    is_prime = np.ones((high - low + 1) // 2, dtype=bool)
    wanted = base[: np.searchsorted(base, math.isqrt(high - 1), side="right")]
    # first odd multiple of each p that is at least p*p and in the segment, as an index
    firsts = np.maximum(wanted * wanted, -(-low // wanted) * wanted)
    firsts += wanted * (firsts % 2 == 0)
    for first, prime in zip(((firsts - low) // 2).tolist(), wanted.tolist(), strict=True):
        is_prime[first::prime] = False
    return int(np.count_nonzero(is_prime))


def _escape_times(c_real: NDArray[np.float64], c_imag: NDArray[np.float64], max_iterations: int) -> NDArray[np.uint16]:
    times = np.full(c_real.size, max_iterations, dtype=np.uint16)
    alive = np.arange(c_real.size)
    x, y = np.zeros_like(c_real), np.zeros_like(c_imag)
    # Real arithmetic, step by step: a complex product may be rounded differently at the end of a SIMD row,
    # and then the pixels would depend on how the picture was cut into tiles.
    for step in range(max_iterations):
        xx, yy = x * x, y * y
        stays = xx + yy <= 4.0
        if not stays.all():
            times[alive[~stays]] = step
            alive, x, y, xx, yy = alive[stays], x[stays], y[stays], xx[stays], yy[stays]
            c_real, c_imag = c_real[stays], c_imag[stays]
        if not alive.size:
            break
        y = 2 * x * y + c_imag
        x = xx - yy + c_real
    return times


def _check_numeric(name: str, array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufc":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {kind}: expected a numpy array of integers, floats or complex numbers")
