"""Where more stops helping: concurrency, `max_workers` or batch size found by measured steps.

Hill climbing on throughput, as in Hellerstein, Morrison & Eilebrecht, "Optimizing concurrency levels in the
.NET ThreadPool" (2008), but on a ladder of settings each measured once per climb: a climb ends after at
most one pass up and one down, then the setting rests. It cannot oscillate, because it moves again only when
the throughput at rest has changed for good, and rests longer each time. REJECTED: latency gradients (TCP
Vegas, Brakmo 1994; Netflix concurrency-limits). They need the latency without queueing, which a queue that
is busy for hours never shows.

    climber = Climber(ladder(1, 64), start=4)
    each window:  climber.observe(jobs_per_s, is_saturated=waiting > 0);  use climber.setting
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

RUNG = 1.5  # factor between settings
WINDOWS = 3  # measured per setting; their median counts
GAIN = 0.05  # a rung up has to bring so much more, a rung down may cost so much
DRIFT = 0.25  # change of throughput at rest that starts a new climb
REST_WINDOWS = 20
MOST_REST_WINDOWS = 1280


def ladder(least: int, most: int) -> list[int]:
    """Settings from `least` to `most`, each about half as much again as the one before."""
    if not 1 <= least <= most:
        raise ValueError(
            f"settings from {least} to {most} make no ladder; both bounds must be at least 1 and in order."
        )
    rungs = [least]
    while rungs[-1] < most:
        rungs.append(min(max(rungs[-1] + 1, round(rungs[-1] * RUNG)), most))
    return rungs


def next_rung(measured: Mapping[int, float], first: int, n_rungs: int) -> tuple[int, bool]:
    """Where to measure next, or where to rest (True); `first`: the rung where the climb began.

    Up while each rung brings GAIN more than the one below; then down while the throughput stays within GAIN
    of the best.
    """
    at = first
    if at not in measured:
        return at, False
    while at + 1 < n_rungs:
        if at + 1 not in measured:
            return at + 1, False
        if measured[at + 1] <= measured[at] * (1 + GAIN):
            break
        at += 1
    while at > 0:
        if at - 1 not in measured:
            return at - 1, False
        best_above = max(rate for rung, rate in measured.items() if rung >= at)
        if measured[at - 1] < best_above * (1 - GAIN):
            break
        at -= 1
    return at, True


@dataclass
class Climber:
    """Finds the smallest setting on the ladder that gives (nearly) the greatest throughput."""

    rungs: Sequence[int]
    start: int
    is_resting: bool = False
    reason: str = "not measured yet"
    _at: int = field(init=False)
    _first: int = field(init=False)
    _windows: list[float] = field(default_factory=list)
    _measured: dict[int, float] = field(default_factory=dict)  # rung -> throughput, this climb
    _rest: int = REST_WINDOWS  # windows to rest at least
    _rested: int = 0

    def __post_init__(self) -> None:
        if not self.rungs:
            raise ValueError("a ladder without rungs cannot be climbed; give at least one setting.")
        self._at = self._first = min(range(len(self.rungs)), key=lambda i: abs(self.rungs[i] - self.start))

    @property
    def setting(self) -> int:
        """What to use now."""
        return self.rungs[self._at]

    def observe(self, throughput: float, *, is_saturated: bool) -> int:
        """Take one window at the present setting; returns the setting to use next.

        A window without waiting work measures the demand, not the setting: it is ignored.
        """
        if not is_saturated:
            return self.setting
        self._windows.append(throughput)
        if self.is_resting:
            self._watch()
        elif len(self._windows) == WINDOWS:
            self._measured[self._at] = median(self._windows)
            self._windows.clear()
            self._at, self.is_resting = next_rung(self._measured, self._first, len(self.rungs))
            if self.is_resting:
                self._rested = 0
                self.reason = f"{self.setting}: the least near the best throughput ({self._seen()})"
            else:
                self.reason = f"measuring {self.setting} ({self._seen()})"
        return self.setting

    def _seen(self) -> str:
        best = max(self._measured, key=lambda rung: self._measured[rung])
        return f"best {self.rungs[best]}: {self._measured[best]:.4g}/s"

    def _watch(self) -> None:
        """At rest: climb again when the throughput has changed for good."""
        self._rested += 1
        del self._windows[: -2 * WINDOWS]
        if self._rested < self._rest or len(self._windows) < 2 * WINDOWS:
            return
        before, now = self._measured[self._at], median(self._windows)
        if abs(now - before) > DRIFT * before:
            self._rest = min(2 * self._rest, MOST_REST_WINDOWS)
            self._measured.clear()
            self._windows.clear()
            self.is_resting, self._first = False, self._at
            self.reason = f"{self.setting}: went from {before:.4g}/s to {now:.4g}/s, measuring again"


def batch_size(service_s: float, target_batch_s: float, most: int) -> int:
    """Jobs to claim at once for a claim of `target_batch_s`: long delay cancels, short cost locks."""
    if service_s <= 0:
        return most
    return min(max(1, int(target_batch_s / service_s)), most)
