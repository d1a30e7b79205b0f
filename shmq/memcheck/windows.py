"""From readings to stretches that can be judged: the whole of what counts, its last half, its last quarter.

Series ──lives_of()──▶ warm-up off, block floors, over seconds and over jobs ──windows_of()──▶ Window x 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from shmq.memcheck.slope import FloatArray, Group, Slope, blocks_for, floors, means, sen_slope, stretches

WARM_UP = 0.2  # share of each process's readings: imports, caches, copy-on-write after the fork
LEAST_BLOCKS = 12  # of one process; pooled processes bring at least `LEAST_POINTS` each
LEAST_POINTS = 4
STEADY = 0.8  # the later half of a leak grows at least this much as fast as the earlier one
ALL_ALONG_T = 2.6  # t value of the growth per part: 4 even steps in 8 parts pass, 3 do not
PARTS = 8


@dataclass(frozen=True)
class Series:
    """Readings of one quantity of one process. `t_s`: monotonic, rising.

    `jobs`: done up to then; of the whole system for a process that runs none itself; None if nobody counts.
    """

    kind: str
    name: str
    quantity: str
    t_s: FloatArray
    value: FloatArray
    jobs: FloatArray | None = None

    @property
    def span_s(self) -> float:
        """From the first reading to the last."""
        return float(self.t_s[-1] - self.t_s[0]) if len(self.t_s) > 1 else 0.0


@dataclass(frozen=True)
class Window:
    """What was seen in one stretch of the readings: all that count, the last half, or the last quarter.

    Lengths and what follows from them are measured along one axis: seconds or jobs, whichever the growth goes with.
    """

    fit: Slope  # per unit of the axis
    time: Slope
    jobs: Slope | None
    span_s: float  # of the longest life
    span: float  # likewise, along the axis
    seen: float  # of all lives together
    range: float  # highest minus lowest floor
    pace_kept: float  # pace of the later half / pace of the earlier half; 1 if the earlier half did not grow
    grew_all_along: bool
    reached_new_high: bool  # ends above everything that was before this stretch

    @property
    def is_steady(self) -> bool:
        """Growth, if any, has not slowed down."""
        return self.pace_kept >= STEADY


@dataclass(frozen=True)
class Lives:
    """Readings that count, per process: x is the seconds or the jobs since the process was first seen."""

    by_time: list[Group] = field(default_factory=list)
    by_jobs: list[Group] = field(default_factory=list)
    jobs_by_time: list[Group] = field(default_factory=list)  # the floors of `by_time` over the jobs done by then

    @property
    def jobs_per_s(self) -> float:
        """Mean pace, over all lives."""
        jobs, seconds = (sum(float(x[-1] - x[0]) for x, _ in lives) for lives in (self.by_jobs, self.by_time))
        return jobs / seconds if seconds > 0 else 0.0


def lives_of(series: Sequence[Series]) -> Lives:
    """Take the warm-up off each process and reduce the rest to block floors, on both axes."""
    lives = Lives()
    blocks = blocks_for(len(series))
    least = LEAST_BLOCKS if len(series) == 1 else LEAST_POINTS
    for one in series:
        start = int(np.ceil(WARM_UP * len(one.t_s)))
        if len(one.t_s) - start < least:
            continue
        t_s, value, is_count = one.t_s[start:] - one.t_s[0], one.value[start:], not one.quantity.endswith("bytes")
        lives.by_time.append(floors(t_s, value, blocks, lowest=is_count))
        if one.jobs is not None:
            jobs = one.jobs[start:] - one.jobs[0]
            lives.by_jobs.append(floors(jobs, value, blocks, lowest=is_count))
            lives.jobs_by_time.append((means(jobs, stretches(t_s, blocks)), lives.by_time[-1][1]))
    return lives


def windows_of(lives: Lives, *, with_jobs: bool = False) -> list[Window]:
    """The whole stretch, its last half and its last quarter, as far as there are readings enough.

    Args:
        with_jobs: the axis is the jobs, not the seconds. Under a load that follows the day, growth with jobs speeds up
            and slows down over the clock, but not over the jobs.
    """
    found: list[Window] = []
    for share in (1.0, 0.5, 0.25):
        by_time, by_jobs = _tails(lives.by_time, share), _tails(lives.by_jobs, share)
        groups = by_jobs if with_jobs else by_time
        fit, time, jobs = sen_slope(groups), sen_slope(by_time), sen_slope(by_jobs)
        if fit is None or time is None or (share < 1 and sum(len(x) for x, _ in groups) < LEAST_BLOCKS):
            break
        lengths = [float(x[-1] - x[0]) for x, _ in groups]
        found.append(
            Window(
                fit=fit,
                time=time,
                jobs=jobs,
                span_s=max(float(x[-1] - x[0]) for x, _ in by_time),
                span=max(lengths),
                seen=sum(lengths),
                range=float(np.median([np.ptp(y) for _, y in groups])),
                pace_kept=_pace_kept(groups),
                grew_all_along=_grew_all_along(groups),
                reached_new_high=share == 1 or _reached_new_high(lives.by_jobs if with_jobs else lives.by_time, share),
            )
        )
    return found


def _tails(groups: Sequence[Group], share: float) -> list[Group]:
    """The last share of each life that leaves points enough."""
    tails = [_tail(group, share) for group in groups]
    return [group for group in tails if len(group[0]) >= LEAST_POINTS]


def _tail(group: Group, share: float) -> Group:
    x, y = group
    start = len(x) - int(np.ceil(len(x) * share))
    return x[start:], y[start:]


def _pace_kept(groups: Sequence[Group]) -> float:
    early = sen_slope([(x[: (len(x) + 1) // 2], y[: (len(x) + 1) // 2]) for x, y in groups])
    late = sen_slope([(x[len(x) // 2 :], y[len(x) // 2 :]) for x, y in groups])
    if early is None or late is None or early.mid <= 0:
        return 1.0
    return max(late.mid, 0.0) / early.mid


def _grew_all_along(groups: Sequence[Group]) -> bool:
    """False when the growth is the work of a few steps: t test over the growth of the parts of each life.

    Parts of many processes are many, so each gives fewer. Opposite errors of neighbouring parts make the test
    strict.
    """
    parts = max(2, int(np.ceil(PARTS / len(groups))) + 1)
    rates: list[float] = []
    for x, y in groups:
        edges = np.linspace(0, len(x), min(parts, len(x)) + 1).astype(np.intp)
        mids = [(float(x[a:b].mean()), float(np.median(y[a:b]))) for a, b in pairwise(edges)]
        rates += [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(mids) if x1 > x0]
    if len(rates) < 3:
        return False
    mean, spread = float(np.mean(rates)), float(np.std(rates, ddof=1))
    return mean > 0 and mean >= ALL_ALONG_T * spread / float(np.sqrt(len(rates)))


def _reached_new_high(groups: Sequence[Group], share: float) -> bool:
    """True when most processes end above all that they had before the window: the tooth of a saw does not."""
    above = 0
    for _, y in groups:
        window = max(int(np.ceil(len(y) * share)), 1)
        end = float(np.median(y[-max(window // 4, 1) :]))
        above += end > float(y[:-window].max(initial=-np.inf))
    return 2 * above > len(groups)
