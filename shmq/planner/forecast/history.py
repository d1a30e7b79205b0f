"""What came a day and a week ago, in bounded memory.

Steps shorter than a minute are kept as means of bins of about a minute, so a week never takes more than
10,080 rows. The rows live in a buffer twice as long as needed and are moved to its front when it is full:
every look back is one contiguous slice.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shmq.planner.forecast.pending import HORIZON, Floats

DAY_S = 86_400.0
WEEK_BINS = 10_080  # a week of minutes
DAILY, PLAIN, SMOOTH, WEEKLY = range(4)  # columns
DAILY_RATE = 0.3  # weight of the newest day in the profile of the day
WEEKLY_RATE = 0.4  # and of the newest week in that of the week
SMOOTHING_PER_DAY = 144  # the day is smoothed over one of so many parts, either side


class History:
    """Seasonal memory on the scale it is fed: columns daily profile, plain, smoothed, weekly profile."""

    STATE: ClassVar[tuple[str, ...]] = ("rows", "end", "bins", "in_bin", "bin_sum", "reach_sum")

    def __init__(self, step_seconds: float) -> None:
        week_steps = 7 * DAY_S / step_seconds
        self.steps_per_bin = max(1, math.ceil(week_steps / WEEK_BINS))
        self.day = max(1, round(DAY_S / step_seconds / self.steps_per_bin))
        self.week = 7 * self.day
        self.reach = min(8, self.day // SMOOTHING_PER_DAY)
        self.window = self.week + HORIZON + 2 * self.reach + 2
        self.rows: Floats = np.zeros((2 * self.window, 4))
        self.end = self.window  # first row not yet written; the zeros before it are never read as history
        self.bins = 0  # bins complete so far
        self.in_bin = 0  # steps in the bin being filled
        self.bin_sum = 0.0
        self.reach_sum = 0.0  # of the bins that the next smoothed one is the mean of
        self._ahead = np.arange(1, HORIZON + 1)

    @property
    def has_day(self) -> bool:
        """Is there a whole day to look back on?"""
        return self.bins > self.day + self.reach

    @property
    def has_week(self) -> bool:
        """Is there a whole week to look back on?"""
        return self.bins > self.week + self.reach

    @property
    def is_whole(self) -> bool:
        """Do the counters name places that there are? What was read from a file may not."""
        return self.window <= self.end <= len(self.rows) and self.in_bin < self.steps_per_bin

    def append(self, z: float) -> None:
        """Take the value of one step."""
        self.bin_sum += z
        self.in_bin += 1
        if self.in_bin == self.steps_per_bin:
            self._append_bin(self.bin_sum / self.steps_per_bin)
            self.in_bin, self.bin_sum = 0, 0.0

    def _append_bin(self, value: float) -> None:
        rows, i, k = self.rows, self.end, self.reach
        if i == len(rows):
            rows[: self.window] = rows[self.window :]
            self.end = i = self.window
            self.reach_sum = float(rows[i - 2 * k - 1 : i, PLAIN].sum())  # rounding errors end here
        rows[i] = value
        smooth = value
        if k:
            self.reach_sum += value - float(rows[i - 2 * k - 1, PLAIN])
            i -= k
            if self.bins >= 2 * k:
                rows[i, SMOOTH] = smooth = self.reach_sum / (2 * k + 1)
        days = self.bins - k
        last = smooth if days < self.day else float(rows[i - self.day, DAILY])
        rows[i, DAILY] = last + DAILY_RATE * (smooth - last)
        last = smooth if days < self.week else float(rows[i - self.week, WEEKLY])
        rows[i, WEEKLY] = last + WEEKLY_RATE * (smooth - last)
        self.end += 1
        self.bins += 1

    def now(self, period: int, column: int) -> float:
        """The value one period before the step that has just been appended."""
        return float(self.rows[self.end - 1 + (self.in_bin > 0) - period, column])

    def ahead(self, period: int, first: int, last: int) -> Floats:
        """Columns first..last-1 one period before each of the next HORIZON steps: (HORIZON, last - first)."""
        if self.steps_per_bin == 1 and period > HORIZON + self.reach:
            start = self.end - period
            return self.rows[start : start + HORIZON, first:last]
        ahead = (self.in_bin + self._ahead - 1) // self.steps_per_bin  # bins after the next one
        back = period * -(-(ahead + 1 + self.reach) // period)  # whole periods, enough to end in the past
        return self.rows[self.end + ahead - back, first:last]

    def profile(self, steps: NDArray[np.int64]) -> Floats | None:
        """Weekly, else daily profile so many steps after the last one; None before a day is full."""
        period, column = (self.week, WEEKLY) if self.has_week else (self.day, DAILY)
        if not self.has_day:
            return None
        ahead = (self.in_bin + steps - 1) // self.steps_per_bin
        back = period * ((ahead + self.reach) // period + 1)
        found: Floats = self.rows[self.end + ahead - back, column]
        return found

    def skip(self, steps: int) -> None:
        """Let steps pass unseen: the profile stands in for them, so that day and week keep their phase.

        Whole weeks are left out: they change no phase. Before a day is full nothing is remembered that
        could lose it.
        """
        steps %= self.week * self.steps_per_bin
        if not self.has_day:
            return
        bins, self.in_bin = divmod(self.in_bin + steps, self.steps_per_bin)
        self.bin_sum *= 0
        period, column = (self.week, WEEKLY) if self.has_week else (self.day, DAILY)
        for _ in range(bins):
            self._append_bin(float(self.rows[self.end - period - self.reach, column]))
        self.bin_sum = self.in_bin * float(self.rows[self.end - 1, PLAIN])
