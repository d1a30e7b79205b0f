"""A day of load, and how many jobs, failures, recycles and scale changes of it a soak run brings. Pure: time
is passed in.

--hours 24 --minutes 10    24 h of the configured load, squeezed into 10 minutes: acceleration 144
--hours 24 --wall          the same at its own pace: acceleration 1
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from shmq.errors import ConfigError

# Relative load at the beginning of each hour: quiet at night, a peak before and one after noon, a smaller one
# in the evening.
WORKING_DAY = (
    0.25, 0.20, 0.15, 0.15, 0.20, 0.30, 0.50, 0.80, 1.30, 1.70, 1.90, 1.75,
    1.40, 1.60, 1.85, 1.75, 1.50, 1.30, 1.20, 1.35, 1.20, 0.90, 0.60, 0.35,
)  # fmt: skip


class DayShape:
    """Load over a day, as straight lines between hours, scaled to a mean of 1; repeated day after day."""

    def __init__(self, hourly: Sequence[float] = WORKING_DAY) -> None:
        if len(hourly) != 24 or min(hourly) < 0 or max(hourly) <= 0:
            raise ConfigError(
                f"a day shape needs 24 numbers >= 0, one of them > 0; got {len(hourly)}: {list(hourly)[:4]}. "
                "Give the relative load at the beginning of each hour."
            )
        mean = sum(hourly) / 24
        self._points = [value / mean for value in (*hourly, hourly[0])]
        areas = [(a + b) / 2 for a, b in pairwise(self._points)]
        self._area = [0.0, *accumulate(areas)]  # hours of mean load until each hour

    def pace(self, hour: float) -> float:
        """Load at an hour (any number, day after day); 1 is the mean."""
        start, part = divmod(hour % 24, 1)
        a, b = self._points[int(start)], self._points[int(start) + 1]
        return a + (b - a) * part

    def brought_by(self, hour: float) -> float:
        """Hours' worth of mean load from hour 0 until `hour` >= 0."""
        days, rest = divmod(hour, 24)
        start, part = divmod(rest, 1)
        a, b = self._points[int(start)], self._points[int(start) + 1]
        return days * 24 + self._area[int(start)] + part * (a + (a + (b - a) * part)) / 2

    def hour_of(self, brought: float) -> float:
        """The hour by which so much load was brought: the inverse of `brought_by`."""
        days, rest = divmod(brought, 24)
        start = min(bisect_right(self._area, rest) - 1, 23)
        a, b = self._points[start], self._points[start + 1]
        missing = rest - self._area[start]
        # area = a p + (b - a) p² / 2, solved in the form that stays exact for a == b
        root = (a * a + 2 * (b - a) * missing) ** 0.5
        part = min(2 * missing / (a + root), 1.0) if a + root > 0 else 0.0  # rounding may lead past the hour
        return days * 24 + start + part


@dataclass(frozen=True)
class Load:
    """What an ordinary hour of the configured load brings on average."""

    jobs_per_s: float
    failed_share: float = 0.0
    recycles_per_hour: float = 0.0
    scale_changes_per_hour: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A soak run: `hours` of `load` within `minutes` of clock; None: at its own pace."""

    hours: float
    minutes: float | None
    load: Load
    shape: DayShape = field(default_factory=DayShape)

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {value}: must be greater than 0"
            for name, value in (
                ("hours", self.hours),
                ("minutes", self.minutes),
                ("jobs_per_s", self.load.jobs_per_s),
            )
            if value is not None and not value > 0
        ]
        if not 0 <= self.load.failed_share <= 1:
            problems.append(f"failed_share = {self.load.failed_share}: must be between 0 and 1")
        if problems:
            raise ConfigError(problems)

    @property
    def seconds(self) -> float:
        """Clock time of the run."""
        return self.hours * 3600 if self.minutes is None else self.minutes * 60

    @property
    def acceleration(self) -> float:
        """Hours of load per hour of clock."""
        return self.hours * 3600 / self.seconds

    @property
    def jobs(self) -> int:
        """Of the whole run."""
        return self._of(self.load.jobs_per_s * 3600)

    @property
    def failures(self) -> int:
        """Jobs of the whole run that are to fail."""
        return round(self.jobs * self.load.failed_share)

    @property
    def recycles(self) -> int:
        """Workers replaced in the whole run."""
        return self._of(self.load.recycles_per_hour)

    @property
    def scale_changes(self) -> int:
        """Changes of a group's worker count in the whole run."""
        return self._of(self.load.scale_changes_per_hour)

    def hour(self, elapsed_s: float) -> float:
        """The hour of load (0 to `hours`) that the clock has come to."""
        return min(max(elapsed_s, 0.0), self.seconds) * self.acceleration / 3600

    def due(self, total: int, elapsed_s: float) -> int:
        """How many of `total` jobs (or recycles, scale changes) should have happened by now, following the
        day's shape.
        """
        return round(total * self.shape.brought_by(self.hour(elapsed_s)) / self.shape.brought_by(self.hours))

    def jobs_per_s(self, elapsed_s: float) -> float:
        """Jobs per second of clock to bring now."""
        whole = self.shape.brought_by(self.hours) / self.hours
        return self.jobs / self.seconds * self.shape.pace(self.hour(elapsed_s)) / whole

    def hours_covered(self, jobs_done: int) -> float:
        """Hours of load that so many jobs make up: what a run that was cut short, or could not keep pace, has
        shown.
        """
        return self.shape.hour_of(min(jobs_done / self.jobs, 1.0) * self.shape.brought_by(self.hours))

    def words(self) -> str:
        """The conversion, for the terminal and the report."""
        load = f"{self.hours:g} h of {self.load.jobs_per_s:,.0f} jobs/s on average, following a working day"
        parts = [f"{self.jobs:,} jobs"]
        parts += [f"{self.failures:,} failures"] if self.failures else []
        parts += [f"{self.recycles:,} recycles"] if self.recycles else []
        parts += [f"{self.scale_changes:,} scale changes"] if self.scale_changes else []
        many = ", ".join(parts)
        if self.minutes is None:
            return f"{load}, at its own pace: {many} in {self.seconds / 3600:g} h of clock."
        return (
            f"{load}, squeezed into {self.minutes:g} minutes: {many}, {self.acceleration:,.4g} times as fast "
            f"({self.jobs / self.seconds:,.0f} jobs/s on average). "
            "What grows with jobs is projected over 24 h of that load, "
            "what grows with the clock over 24 h of clock."
        )

    def _of(self, per_hour: float) -> int:
        return round(per_hour * self.hours)
