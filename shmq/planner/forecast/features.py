"""What the regressions and the seasonal experts look at, on the square-root scale.

    common to all horizons:   scale | last counts | running means | running means of the daily and the
    weekly profile |
                              both profiles now
    of each horizon:          daily profile, count and smoothed count a day before it | count, smoothed,
    weekly profile a week before |
                              pattern of the hour

Day and week are zero until a whole one has been seen, so that they weigh nothing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shmq.planner.forecast.history import DAILY, PLAIN, WEEKLY, History
from shmq.planner.forecast.pending import Floats
from shmq.planner.forecast.pulse import HourPulse

LAGS = 6
LEVEL_STEPS = (2.0, 5.0, 15.0, 60.0, 300.0)  # time constants of the running means
PROFILE_STEPS = (5.0, 60.0)  # and of those of the profiles
SCALE_STEPS = 2000.0
PEAK_DECAY = 0.9999
N_LEVELS, N_PROFILE = len(LEVEL_STEPS), len(PROFILE_STEPS)
FIRST_LEVEL = 1 + LAGS
FIRST_DAILY = FIRST_LEVEL + N_LEVELS
FIRST_WEEKLY = FIRST_DAILY + N_PROFILE
FIRST_OWN = FIRST_WEEKLY + N_PROFILE + 2  # own = of the horizon
N_FEATURES = FIRST_OWN + 7
OWN_DAILY, OWN_WEEKLY, OWN_PULSE = FIRST_OWN, FIRST_OWN + 5, FIRST_OWN + 6


class Features:
    """Running state of the features; `observe` a value per step, `write` the lines of the next steps."""

    STATE: ClassVar[tuple[str, ...]] = ("common", "peak", "power", "seen", "days", "weeks")

    def __init__(self, step_seconds: float) -> None:
        self.history = History(step_seconds)
        self.pulse = HourPulse(step_seconds)
        self.common: Floats = np.zeros(FIRST_OWN)
        self.means = self.common[FIRST_LEVEL : FIRST_OWN - 2]
        self.levels = self.means[:N_LEVELS]
        self._rates = 1 / np.array(LEVEL_STEPS + 2 * PROFILE_STEPS)
        self._source = np.zeros(len(self._rates))
        self.peak = 0.0  # greatest value, slowly forgotten
        self.power = 0.0  # running mean of the squares
        self.seen = 0
        self.days = self.weeks = 0  # steps observed since the profile of the day (week) exists

    @property
    def scale(self) -> float:
        """Root mean square of the values, never zero."""
        return float(self.common[0])

    def observe(self, z: float) -> None:
        """Take the value of one step."""
        history, common, source = self.history, self.common, self._source
        history.append(z)
        if self.pulse.steps:
            self.pulse.observe(z)
        self.seen += 1
        common[2:FIRST_LEVEL] = common[1 : FIRST_LEVEL - 1]
        common[1] = z
        source[:N_LEVELS] = z
        rates = self._rates
        if self.seen < 2 * LEVEL_STEPS[-1]:
            rates = np.maximum(rates, 1 / self.seen)
        if history.has_day:
            common[-2] = source[N_LEVELS : N_LEVELS + N_PROFILE] = daily = history.now(history.day, DAILY)
            self.days += 1
            if self.days == 1:
                self.means[N_LEVELS : N_LEVELS + N_PROFILE] = daily
        if history.has_week:
            common[-1] = source[N_LEVELS + N_PROFILE :] = weekly = history.now(history.week, WEEKLY)
            self.weeks += 1
            if self.weeks == 1:
                self.means[N_LEVELS + N_PROFILE :] = weekly
        source -= self.means
        source *= rates
        self.means += source
        self.peak = max(z, self.peak * PEAK_DECAY)
        self.power += max(1 / SCALE_STEPS, 1 / self.seen) * (z * z - self.power)
        common[0] = max(self.power, 0.05) ** 0.5

    def write(self, lines: Floats) -> None:
        """Fill the features (H, d) of the next H steps."""
        history = self.history
        lines[:, :FIRST_OWN] = self.common
        if self.days:
            lines[:, FIRST_OWN : FIRST_OWN + 3] = history.ahead(history.day, DAILY, DAILY + 3)
        if self.weeks:
            lines[:, FIRST_OWN + 3 : OWN_PULSE] = history.ahead(history.week, PLAIN, PLAIN + 3)
        if self.pulse.steps:
            lines[:, OWN_PULSE] = self.pulse.ahead()

    def along_profile(self, steps: NDArray[np.int64]) -> Floats:
        """Change of the profile from the last horizon to further `steps`; zeros while there is none."""
        profile = self.history.profile(np.concatenate([[steps[0] - 1], steps]))
        return np.zeros(len(steps)) if profile is None else profile[1:] - profile[0]

    def skip(self, steps: int) -> None:
        """Let steps pass unseen."""
        self.history.skip(steps)
        self.pulse.seen += steps
