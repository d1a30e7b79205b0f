"""`concurrency = "auto"` and `max_workers = "auto"`: what `tuning.Climber` finds, from the counts of a group.

    steps ──one window──▶ throughput, was it saturated? ──▶ concurrency (per worker), then bound of the workers

One of the two climbs at a time: the bound of the workers rests while the concurrency is being measured. A
window in which the number of workers changed measures neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shmq.config.model import Group
from shmq.memory.layout import AUTO_FIRST, AUTO_MOST
from shmq.planner.group import Observed
from shmq.planner.tuning import Climber, ladder

WINDOW_S = 1.0  # at least
WINDOW_SERVICES = 4.0  # and so many service times, or a window would show the jobs of the setting before


@dataclass
class _Window:
    seconds: float = 0.0
    jobs: float = 0.0
    workers: int = -1
    is_saturated: bool = True


@dataclass
class Sizing:
    """Concurrency of one worker and most workers of one group.

    `found_workers`, `found_concurrency`: by the planner before this one, which ended; 0: there was none. Its bound was
    no lower than the workers that are there.
    """

    settings: Group
    cores: int
    worker_rows: int
    found_workers: int = 0
    found_concurrency: int = 0
    _window: _Window = field(default_factory=_Window)
    _is_settling: bool = False

    def __post_init__(self) -> None:
        settings, rows = self.settings, max(self.worker_rows, 1)
        self._concurrency = self._workers = None
        if settings.concurrency == "auto":
            self._concurrency = Climber(ladder(1, AUTO_MOST), self.found_concurrency or AUTO_FIRST)
        if settings.max_workers == "auto":
            rungs = ladder(max(min(settings.min_workers, rows), 1), rows)
            start = min(self.cores, rows)
            if self.found_workers > start:
                start = next((rung for rung in rungs if rung >= self.found_workers), rows)
            self._workers = Climber(rungs, start)

    @property
    def concurrency(self) -> int:
        """Jobs that a worker runs at once."""
        return self._concurrency.setting if self._concurrency else int(self.settings.concurrency)

    @property
    def max_workers(self) -> int:
        """Workers at most."""
        if self._workers:
            return max(self._workers.setting, self.settings.min_workers)
        return max(int(self.settings.max_workers), self.settings.min_workers)

    @property
    def reason(self) -> str:
        """What was found, in words; "" where nothing is automatic."""
        found = (("concurrency", self._concurrency), ("max_workers", self._workers))
        return "; ".join(f"{name} {climber.reason}" for name, climber in found if climber)

    def observe(self, seen: Observed, step_s: float, workers: int) -> None:
        """Take one step; `workers` are live."""
        if not (self._concurrency or self._workers):
            return
        window = self._window
        if window.workers != workers:
            self._window = window = _Window(workers=workers)
        window.seconds += step_s
        window.jobs += seen.departures
        window.is_saturated &= seen.waiting > 0
        if window.seconds < max(WINDOW_S, WINDOW_SERVICES * seen.service_s):
            return
        self._window = _Window(workers=workers)
        if self._is_settling:  # the first window of a setting still shows jobs of the one before
            self._is_settling = False
        elif workers:
            self._climb(window, workers)

    def _climb(self, window: _Window, workers: int) -> None:
        before = self.concurrency, self.max_workers
        rate = window.jobs / window.seconds
        concurrency = self._concurrency
        if concurrency:
            concurrency.observe(rate / workers, is_saturated=window.is_saturated)
        if self._workers and (concurrency is None or concurrency.is_resting):
            self._workers.observe(rate, is_saturated=window.is_saturated and workers >= self.max_workers)
        self._is_settling = before != (self.concurrency, self.max_workers)
