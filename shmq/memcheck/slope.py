"""How fast does a quantity grow? A slope that outliers cannot bend, with an interval that correlated readings
cannot shrink.

    readings ──floors()──▶ about 60 block floors ──sen_slope()──▶ Slope(low, mid, high)

Sources: P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63 (1968): median
of the pairwise slopes, interval from the ranks. R. M. Hirsch, J. R. Slack, R. A. Smith, "Techniques of trend
analysis for monthly water quality data", Water Resources Research 18 (1982): pairs only within a group (there
a month, here the life of one process), variances added over groups. S. Yue, C. Wang, "The Mann-Kendall test
modified by effective sample size to detect trend in serially correlated hydrological series", Water Resources
Management 18 (2004): variance inflated by the serial correlation of the readings with their trend taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
Group: TypeAlias = tuple[FloatArray, FloatArray]  # x, y of one process, x rising

Z_99 = 2.576  # two-sided 99 %: a run judges some fifty series, 95 % would cry wolf every time
MAX_PAIRS = 100_000  # bounds time and memory of one fit (a few milliseconds)
MAX_BLOCKS = 64
LEAST_EFFECTIVE = 3.0  # readings never count as fewer independent ones than this


@dataclass(frozen=True)
class Slope:
    """Units of y per unit of x: the estimate and the ends of its 99 % interval."""

    low: float
    mid: float
    high: float

    def scaled(self, factor: float) -> Slope:
        """The same slope in other units (factor >= 0)."""
        return Slope(self.low * factor, self.mid * factor, self.high * factor)


def floors(x: FloatArray, y: FloatArray, blocks: int, *, lowest: bool = False) -> Group:
    """Cut readings into at most `blocks` stretches of equal length in x; of each keep the mean x and a low y.

    The lower quartile, because a leak raises the floor, while one large job raises only the ceiling; the lowest for
    what can only be too high in passing (a count of what is in use). The noise of single readings goes, and the cost
    of a fit no longer depends on how often somebody measured. Equal in x, because over jobs a quiet night of many
    readings is no more than a moment of the peak.
    """
    starts = stretches(x, blocks)
    lows = [_low(part, lowest=lowest) for part in np.split(y, starts[1:])]
    return means(x, starts), np.array(lows)


def stretches(x: FloatArray, blocks: int) -> npt.NDArray[np.intp]:
    """Where each of at most `blocks` stretches of equal length in x begins; each holds a reading at least."""
    if len(x) <= blocks:
        return np.arange(len(x))
    inner = np.searchsorted(x, np.linspace(x[0], x[-1], blocks + 1)[1:-1])
    starts = np.unique(np.concatenate(([0], inner)))
    return starts[starts < len(x)]


def means(x: FloatArray, starts: npt.NDArray[np.intp]) -> FloatArray:
    """Mean of x in each stretch."""
    found: FloatArray = np.add.reduceat(x, starts) / np.diff(np.append(starts, len(x)))
    return found


def _low(values: FloatArray, *, lowest: bool) -> float:
    rank = 0 if lowest else (len(values) - 1) // 4
    return float(np.partition(values, rank)[rank])


def blocks_for(groups: int) -> int:
    """How many blocks each of `groups` series may have, so that all pairs together stay under `MAX_PAIRS`."""
    return int(np.clip(np.sqrt(2 * MAX_PAIRS / max(groups, 1)), 4, MAX_BLOCKS))


def sen_slope(groups: Sequence[Group], z: float = Z_99) -> Slope | None:
    """Theil-Sen slope over pairs within each group, with its rank interval; None when no pair differs in x.

    Args:
        groups: (x, y) per process, each at most a few dozen points: see `floors`.
        z: half-width of the interval in standard deviations.
    """
    slopes = _pair_slopes(groups)
    if slopes.size == 0:
        return None
    mid = float(np.median(slopes))
    spread = z * np.sqrt(_kendall_variance(groups) * _inflation(groups, mid))
    slopes.sort()
    last = slopes.size - 1
    low = int(np.clip(np.floor((slopes.size - spread) / 2) - 1, 0, last))
    high = int(np.clip(np.ceil((slopes.size + spread) / 2), 0, last))
    return Slope(float(slopes[low]), mid, float(slopes[high]))


def _pair_slopes(groups: Sequence[Group]) -> FloatArray:
    parts: list[FloatArray] = []
    for x, y in groups:
        i, j = _pairs(len(x))
        run = x[j] - x[i]
        apart = run > 0
        parts.append((y[j] - y[i])[apart] / run[apart])
    return np.concatenate(parts) if parts else np.empty(0)


@lru_cache(maxsize=128)
def _pairs(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices of every pair of n readings, the earlier first."""
    return np.triu_indices(n, 1)


def _kendall_variance(groups: Sequence[Group]) -> float:
    """Variance of Kendall's S for independent readings, ties in y taken off, added over groups."""
    total = 0.0
    for _, y in groups:
        n = len(y)
        ties = np.unique(y, return_counts=True)[1]
        total += (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    return max(total, 0.0)


def _inflation(groups: Sequence[Group], slope: float) -> float:
    """How many correlated readings make one independent one: (1 + r) / (1 - r), r = lag-1 correlation off the
    line.

    The estimate of r is too low by about (1 + 4 r) / n in short series with a fitted line; that is put back.
    """
    products = squares = 0.0
    count = 0
    for x, y in groups:
        if len(x) < 3:
            continue
        off = y - slope * x
        off = off - off.mean()
        products += float((off[1:] * off[:-1]).sum())
        squares += float((off * off).sum())
        count = max(count, len(x))
    if squares <= 0:
        return 1.0
    r = products / squares
    r = min(r + (1 + 4 * max(r, 0.0)) / count, 0.99)
    return float(np.clip((1 + r) / (1 - r), 1.0, max(count / LEAST_EFFECTIVE, 1.0)))
