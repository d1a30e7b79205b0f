"""Does it leak? Readings in, one of three answers out: "leak", "no leak", "too short to tell: run N more minutes".

    Series of one process (or of all short-lived ones of a kind)
      → warm-up removed → block floors → Theil-Sen slope per second and per job (slope.py)
      → the straighter of the two axes; along it the whole stretch, its last half, its last quarter (windows.py):
        of what has slowed down, the end counts
      → did it grow all along, not in a step or two? → projected over 24 h → held against the limit

**leak**: the 99 % interval of the slope lies above zero, the growth is steady, and 24 h of it pass the limit.
**no leak**: even the upper end of the interval stays under the limit over 24 h.
**too short to tell**: neither; with the time that would be enough if things go on as they do.

An accelerated run brings 24 h of jobs in minutes. What grows with the jobs is projected over 24 h *of jobs*,
what grows with the clock over 24 h of clock; the straighter of the two fits decides which it is, jobs when
both are as good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shmq.memcheck.slope import Group, Slope, sen_slope
from shmq.memcheck.windows import LEAST_BLOCKS, STEADY, WARM_UP, Lives, Series, Window, lives_of, windows_of

DAY_S = 86_400.0
LEAST_SPAN_S = 2.0  # of the readings that count, whatever their number
STILL_STEADY = 0.85  # STEADY for the last half of what has slowed down before: more is asked of it
LONGEST_MORE_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class Limit:
    """What counts as a leak, in the quantity's unit.

    per_day: more than this over 24 h is one.
    grain: the smallest change that a reading can show.
    per_1000_jobs: more than this is one as well, once `EVIDENCE_GRAINS` of growth were seen: where a day brings
        few jobs, any leak would stay below the first limit.
    warm_up: so much a process may gain until it has warmed up, however long that takes: of processes that are all
        replaced before one of them has gained more, nobody can tell whether they leak.
    """

    per_day: float
    grain: float
    per_1000_jobs: float = float("inf")
    warm_up: float = 0.0


EVIDENCE_GRAINS = 64
MEMORY = Limit(32 * 2**20, 16 * 2**10, 16_000, 2**19)  # grain: one pymalloc pool
COUNT = Limit(200, 1)
LIMITS: Mapping[str, Limit] = {
    "rss_anon_bytes": MEMORY,
    "pss_anon_bytes": MEMORY,
    "heap_bytes": Limit(32 * 2**20, 1024, 16_000, 2**19),
    "shm_bytes": Limit(32 * 2**20, 4096),
    "descriptors": COUNT,
    "threads": COUNT,
    "shm_entries": COUNT,
    "semaphores": COUNT,
    "blocks_in_use": COUNT,
    "jobs_in_table": Limit(2_000, 1),
}


@dataclass(frozen=True)
class Verdict:
    """One row of the table. Slopes are None where there was too little to fit; `jobs` slopes also where
    nobody counted.
    """

    kind: str
    name: str
    quantity: str
    answer: str  # exactly one of the three; the minutes filled in
    reason: str
    processes: int
    readings: int
    span_s: float
    warm_up_s: float
    level: float  # the last reading
    limit_per_day: float
    per_hour: Slope | None = None
    per_1000_jobs: Slope | None = None
    per_day: Slope | None = None  # the projection
    grows_with: str = "clock"  # or "jobs"
    more_minutes: int | None = None

    @property
    def is_leak(self) -> bool:
        """Surely."""
        return self.answer == "leak"

    @property
    def is_clean(self) -> bool:
        """Surely no leak."""
        return self.answer == "no leak"


def judge(
    series: Sequence[Series],
    *,
    acceleration: float = 1.0,
    limits: Mapping[str, Limit] = LIMITS,
    name: str | None = None,
) -> Verdict:
    """The verdict on one quantity of one process, or of many short-lived processes of one kind taken
    together.

    Args:
        series: all of the same kind and quantity; never empty.
        acceleration: hours of load per hour of clock, e.g. 144 for 24 h in 10 minutes.
        limits: per quantity; a quantity without one is held to `COUNT`.
        name: what the row is called; the name of the process if not given.
    """
    first = series[0]
    limit = limits.get(first.quantity, COUNT)
    lives = lives_of(series)
    span_s = max((float(x[-1] - x[0]) for x, _ in lives.by_time), default=0.0)
    with_jobs = _grows_with_jobs(lives)
    windows = windows_of(lives, with_jobs=with_jobs)
    longest_s = max(s.span_s for s in series)
    blank = Verdict(
        kind=first.kind,
        name=first.name if name is None else name,
        quantity=first.quantity,
        answer="",
        reason="",
        processes=len(series),
        readings=sum(len(s.t_s) for s in series),
        span_s=longest_s,
        warm_up_s=WARM_UP * longest_s,
        level=_last_level(series),
        limit_per_day=limit.per_day,
    )
    if not windows or span_s < LEAST_SPAN_S:
        return _too_few(blank, series)
    day = DAY_S / acceleration * lives.jobs_per_s if with_jobs else DAY_S
    return _decide(blank, windows, limit, day, with_jobs=with_jobs)


def judge_all(
    series: Iterable[Series], *, acceleration: float = 1.0, limits: Mapping[str, Limit] = LIMITS
) -> list[Verdict]:
    """One verdict per quantity of each long-lived process, and one per kind for its replaced ones, which are
    pooled.

    A process is long-lived when it was there for a quarter of the run. Pooled rows that say nothing are left
    out when the long-lived processes of the kind have said enough.
    """
    by_key: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        by_key.setdefault((one.kind, one.quantity), []).append(one)
    run_s = max((s.span_s for group in by_key.values() for s in group), default=0.0)
    found: list[Verdict] = []
    for group in by_key.values():
        lasting = [s for s in group if s.span_s >= run_s / 4]
        replaced = [s for s in group if s.span_s < run_s / 4]
        rows = [judge([s], acceleration=acceleration, limits=limits) for s in lasting]
        if replaced:
            pooled = judge(
                replaced,
                acceleration=acceleration,
                limits=limits,
                name=f"{replaced[0].kind}: {len(replaced)} replaced" if len(replaced) > 1 else None,
            )
            if not rows or pooled.per_day is not None:
                rows.append(pooled)
        found += rows
    return [v for v in found if not _is_needless(v, found)]


def _is_needless(verdict: Verdict, others: Sequence[Verdict]) -> bool:
    """Pss_Anon is read rarely. Where that was too rarely to tell, RssAnon of the same process has said what there is to
    say: it is never less, and what grows in Pss_Anon alone was only shared before.
    """
    if verdict.quantity != "pss_anon_bytes" or verdict.more_minutes is None:
        return False
    rss = [v for v in others if v.name == verdict.name and v.quantity == "rss_anon_bytes"]
    return any(v.per_day is not None and v.readings >= 4 * verdict.readings for v in rss)


def overall(verdicts: Sequence[Verdict]) -> str:
    """The answer for the whole run: the worst of all rows, with the longest wait."""
    if any(v.is_leak for v in verdicts):
        return "leak"
    waits = [v.more_minutes or 1 for v in verdicts if not v.is_clean]
    if waits or not verdicts:
        return too_short(max(waits, default=1))
    return "no leak"


def too_short(more_minutes: int) -> str:
    """The third answer."""
    return f"too short to tell: run {more_minutes} more minutes"


def _decide(blank: Verdict, windows: Sequence[Window], limit: Limit, day: float, *, with_jobs: bool) -> Verdict:
    """`day`: 24 h along the windows' axis, in jobs or in seconds."""
    whole, leaking = windows[0], _leaking(windows, limit, day, with_jobs)
    is_warm = blank.processes == 1 or whole.fit.mid * whole.span >= limit.warm_up
    if leaking is not None and is_warm:
        per_day = leaking.fit.scaled(day)
        by_day = per_day.mid > limit.per_day
        over = "24 h of it pass the limit" if by_day else f"more than {limit.per_1000_jobs / 1000:g} bytes per job"
        reason = f"grew steadily for {_minutes(leaking.span_s)}; {over}"
        return _filled(blank, leaking, per_day, with_jobs, "leak", reason)
    bounded = [_bounded(window, limit).scaled(day) for window in windows]
    calm = _calm_window(windows, bounded, limit, day) if leaking is None else None
    if calm is not None:
        levelled = "levelled off; " if calm > 0 else ""
        reason = f"{levelled}24 h bring at most {max(bounded[calm].high, 0.0) / limit.per_day:.0%} of the limit"
        return _filled(blank, windows[calm], bounded[calm], with_jobs, "no leak", reason)
    waits = [_more_minutes(w, p, limit, day) for w, p in zip(windows, bounded, strict=True)]
    more = min(waits)
    slows = _passes(whole, limit, day, with_jobs) and not whole.is_steady
    reason = "still growing, but more and more slowly" if slows else "the slope is not certain enough yet"
    if leaking is not None:
        reason = "replaced before they have warmed up: recycle later, or bring more jobs"
    return _filled(blank, whole, bounded[0], with_jobs, too_short(more), reason, more)


def _leaking(windows: Sequence[Window], limit: Limit, day: float, with_jobs: bool) -> Window | None:
    """The whole stretch when it grew steadily; else its last half (a cache filled up before, or the leak
    began late), which must be confirmed by the last quarter and not be the tooth of a saw.
    """
    whole = windows[0]
    if _passes(whole, limit, day, with_jobs) and whole.is_steady and whole.grew_all_along:
        return whole
    if len(windows) < 3:
        return None
    half, quarter = windows[1], windows[2]
    keeps_on = half.pace_kept >= STILL_STEADY and quarter.fit.mid >= STEADY * half.fit.mid
    if _passes(half, limit, day, with_jobs) and keeps_on and half.grew_all_along and half.reached_new_high:
        return half
    return None


def _passes(window: Window, limit: Limit, day: float, with_jobs: bool) -> bool:
    if window.fit.low <= 0:
        return False
    seen = window.fit.mid * window.seen >= EVIDENCE_GRAINS * limit.grain
    by_jobs = with_jobs and window.fit.mid * 1000 > limit.per_1000_jobs and seen
    return window.fit.mid * day > limit.per_day or by_jobs


def _calm_window(windows: Sequence[Window], bounded: Sequence[Slope], limit: Limit, day: float) -> int | None:
    """Index of the stretch that shows that there is no leak: the whole, or the flat end of what has levelled
    off.

    Flat means no fall either, which could hide growth; and what is shorter than a half must be flat as well.
    """
    if any(_passes(w, limit, day, with_jobs=False) and w.reached_new_high for w in windows[1:]):
        return None
    if bounded[0].high <= limit.per_day:
        return 0
    flat = [slope.high <= limit.per_day and slope.low >= -limit.per_day for slope in bounded]
    if len(flat) == 3 and flat[2] and (flat[1] or not windows[0].is_steady):
        return 1 if flat[1] else 2
    return None


def _filled(
    blank: Verdict,
    window: Window,
    per_day: Slope,
    with_jobs: bool,
    answer: str,
    reason: str,
    more: int | None = None,
) -> Verdict:
    return replace(
        blank,
        answer=answer,
        reason=reason,
        per_hour=window.time.scaled(3600),
        per_1000_jobs=None if window.jobs is None else window.jobs.scaled(1000),
        per_day=per_day,
        grows_with="jobs" if with_jobs else "clock",
        more_minutes=more,
    )


def _bounded(window: Window, limit: Limit) -> Slope:
    """The interval with an upper end that allows for what a flat line can hide (a grain over its length), but
    for no more than if all the difference between its highest and lowest floor were growth.
    """
    grain, all_of_it = (size / max(window.span, 1e-9) for size in (limit.grain, window.range))
    mid = window.fit.mid
    return Slope(window.fit.low, mid, max(mid + grain, min(window.fit.high, all_of_it)))


def _grows_with_jobs(lives: Lives) -> bool:
    """True unless the readings lie clearly straighter over the clock than over the job count.

    Under a steady load both are equal; then jobs are taken, because an accelerated run speeds up whatever the
    load does.
    """
    if sum(len(x) for x, _ in lives.by_jobs) < LEAST_BLOCKS or all(x[-1] <= x[0] for x, _ in lives.by_jobs):
        return False  # idle, or all of them in a moment
    return _off_the_line(lives.jobs_by_time) <= 2 * _off_the_line(lives.by_time)


def _off_the_line(groups: Sequence[Group]) -> float:
    fit = sen_slope(groups)
    if fit is None:
        return 0.0
    offs = [y - fit.mid * x for x, y in groups]
    return float(np.mean([np.median(np.abs(off - np.median(off))) for off in offs]))


def _more_minutes(window: Window, per_day: Slope, limit: Limit, day: float) -> int:
    """How much longer to run, if things go on as they do.

    Slowing growth loses its pace again and again: so many halves of the window are needed until it is under the
    limit. Else the interval narrows at least as fast as the run grows, and no slower than one more
    step of the size of the whole range would allow.
    """
    room = max(limit.per_day - max(per_day.mid, 0.0), limit.per_day / 4)
    if not window.is_steady and 0 < window.pace_kept < 1 and per_day.mid > limit.per_day:
        more_s = np.log(limit.per_day / per_day.mid) / np.log(window.pace_kept) * window.span_s / 2
    else:
        wide = per_day.high - max(per_day.mid, 0.0)
        as_flat_s = max(window.range, limit.grain) * day / room * window.span_s / max(window.span, 1e-9)
        enough_s = min(window.span_s * wide / room, as_flat_s)
        more_s = max(enough_s - window.span_s, window.span_s / 4)
    return int(np.clip(np.ceil(more_s / (1 - WARM_UP) / 60), 1, LONGEST_MORE_MINUTES))


def _too_few(blank: Verdict, series: Sequence[Series]) -> Verdict:
    """Nothing could be fitted: ask for the time that brings enough readings, or say that processes live too
    briefly.
    """
    longest = max(series, key=lambda s: len(s.t_s))
    every_s = longest.span_s / max(len(longest.t_s) - 1, 1) or 1.0
    missing_s = max(every_s * (2 * LEAST_BLOCKS - len(longest.t_s)), LEAST_SPAN_S)
    more = int(np.clip(np.ceil(missing_s / 60), 1, LONGEST_MORE_MINUTES))
    reason = f"only {len(longest.t_s)} readings of the longest-lived process"
    if len(series) > 1:
        reason += "; processes are replaced too soon: read more often or recycle later"
    return replace(blank, answer=too_short(more), reason=reason, more_minutes=more)


def _last_level(series: Sequence[Series]) -> float:
    last = max(series, key=lambda s: float(s.t_s[-1]) if len(s.t_s) else -np.inf)
    return float(last.value[-1]) if len(last.value) else 0.0


def _minutes(span_s: float) -> str:
    return f"{span_s / 60:.1f} minutes" if span_s >= 60 else f"{span_s:.0f} s"
