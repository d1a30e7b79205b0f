"""Latency histograms: four buckets per doubling, so a quantile is right within a quarter of its size.

A worker counts into its own row with two shifts and no search; whoever looks adds the rows up. The idea
is that of HdrHistogram (log-linear buckets), with a fixed 160 words from 1 ns to 550 s.

    ns < 8    bucket = ns
    ns >= 8   bucket = 4 * bit_length + the two bits after the leading one, at most 159
              (so 8 to 15 stay empty)
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq.clock import NS
from shmq.memory.layout import HISTOGRAM_BUCKETS

_LAST = HISTOGRAM_BUCKETS - 1
_MOST = 1 << 53  # a count beyond what a float holds exactly is damage, not a count


def bucket_of(ns: int) -> int:
    """The bucket that counts a duration. Workers inline these lines; a test compares."""
    if ns < 8:
        return max(ns, 0)
    bits = ns.bit_length()
    return min((bits << 2) + ((ns >> (bits - 3)) & 3), _LAST)


def upper_ns(bucket: int) -> int:
    """The first duration above the bucket, in ns; the last bucket also holds all that is longer."""
    if bucket < 16:
        return min(bucket, 7) + 1
    return (5 + (bucket & 3)) << ((bucket >> 2) - 3)


def lower_ns(bucket: int) -> int:
    """The shortest duration the bucket counts, in ns."""
    if bucket < 16:
        return min(bucket, 8)
    return (4 + (bucket & 3)) << ((bucket >> 2) - 3)


def merge(rows: NDArray[Any]) -> NDArray[np.float64]:
    """The sum of histograms, one per row; an absurd count (damage) counts as 0."""
    counts: NDArray[np.float64] = np.where(rows < _MOST, rows, 0).astype(np.float64)
    total: NDArray[np.float64] = counts.reshape(-1, HISTOGRAM_BUCKETS).sum(axis=0)
    return total


def quantiles_s(counts: NDArray[Any], shares: tuple[float, ...]) -> tuple[float, ...] | None:
    """Durations that the given shares of the counted ones do not exceed, in seconds.

    Within a bucket the durations are taken as spread evenly. None when nothing was counted.
    """
    cumulated = np.concatenate(([0.0], np.cumsum(counts)))
    if not cumulated[-1] > 0:
        return None
    found = []
    for share in shares:
        wanted = share * cumulated[-1]
        bucket = min(int(np.searchsorted(cumulated, wanted, side="left")), HISTOGRAM_BUCKETS) - 1
        bucket = max(bucket, int(np.argmax(counts > 0)))
        inside = float(wanted - cumulated[bucket]) / max(float(counts[bucket]), 1.0)
        low, high = _edges()[bucket]
        found.append((low + (high - low) * min(max(inside, 0.0), 1.0)) / NS)
    return tuple(found)


@cache
def _edges() -> tuple[tuple[int, int], ...]:
    return tuple((lower_ns(i), upper_ns(i)) for i in range(HISTOGRAM_BUCKETS))
