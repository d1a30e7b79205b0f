"""The pattern of the hour: what timers and cron lines do at the same minute of each hour."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from shmq.planner.forecast.pending import HORIZON, Floats

HOUR_S = 3600.0
FEWEST, MOST = 4, 720  # steps per hour that make a pattern worth learning, and small enough to keep
RATE = 0.1  # weight of the newest hour
LEVEL_STEPS = 15.0


class HourPulse:
    """Deviation from the running level by step of the hour; off where an hour is no whole number of steps."""

    STATE: ClassVar[tuple[str, ...]] = ("pattern", "level", "seen")

    def __init__(self, step_seconds: float) -> None:
        steps = HOUR_S / step_seconds
        self.steps = round(steps) if steps == round(steps) and FEWEST <= steps <= MOST else 0
        self.pattern: Floats = np.zeros(self.steps + HORIZON)  # its head again at its end: slices
        self.level = 0.0
        self.seen = 0

    def observe(self, z: float) -> None:
        """Take the value of one step."""
        n, pattern = self.steps, self.pattern
        i = self.seen % n
        self.seen += 1
        value = float(pattern[i])
        value += RATE * (z - self.level - value)
        pattern[i] = value
        while (i := i + n) < len(pattern):
            pattern[i] = value
        self.level += max(1 / LEVEL_STEPS, 1 / self.seen) * (z - self.level)

    def ahead(self) -> Floats:
        """The pattern at each of the next HORIZON steps."""
        i = self.seen % self.steps
        return self.pattern[i : i + HORIZON]
