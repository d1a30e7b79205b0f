"""`Forecaster`: counts in, mean and band of the next steps out.

    count ──√──▶ features ──▶ regression ─┐
                        └──▶ levels, profiles ─┴──▶ mixture ──▶ bands ──²──▶ mean, low, high
    truth ──▶ what was said of this step 1 .. H steps ago ──▶ all of them learn

All is done on the square root of counts, where the noise of arrivals is of one size whatever the load
(Bartlett 1936).
"""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import ClassVar

import numpy as np

from shmq.planner.forecast import state
from shmq.planner.forecast.bands import Bands
from shmq.planner.forecast.features import N_FEATURES, Features
from shmq.planner.forecast.mixture import N_EXPERTS, Mixture
from shmq.planner.forecast.pending import HORIZON, Floats, Pending
from shmq.planner.forecast.recursive import RecursiveMedian

GOLDEN = (math.sqrt(5) - 1) / 2
TRIAL_STEPS = 3 * HORIZON  # after so many all that was read has been used, and learned from
MOST_COUNT = 1e10  # arrivals in a step: no host brings more
FIRST_STEPS = 20  # until then the regression only listens
SIGNS = np.array([1.0, -1.0, 1.0])  # of mean, low, high as they are kept


class Forecaster:
    """Online forecast of the arrivals of one group: one `update` per step, `forecast` whenever it is wanted.

    Looks at nothing but the counts it is given: no clock, no calendar, no file. Memory is bounded (see
    README), the work per step is constant. Not thread-safe.
    """

    STATE: ClassVar[tuple[str, ...]] = ("t", "since", "saved_at")

    def __init__(self, step_seconds: float = 60.0) -> None:
        if not (math.isfinite(step_seconds) and step_seconds > 0):
            raise ValueError(
                f"step_seconds = {step_seconds!r} is no length of time; give the seconds between two counts."
            )
        self.step_seconds = float(step_seconds)
        self.t = 0
        self.since = 0  # first step of the present run without gaps
        self.saved_at = 0.0  # what `save` was told; the forecaster makes nothing of it
        self.features = Features(self.step_seconds)
        self.pending = Pending(N_FEATURES, N_EXPERTS)
        self.regression = RecursiveMedian()
        self.mixture = Mixture()
        self.bands = Bands()
        self._last = self.pending.write(0)

    def update(self, count: float) -> None:
        """Take the count of one step (ValueError unless finite; negative ones count as zero)."""
        z = max(float(count), 0.0) ** 0.5
        if not z < math.inf:
            raise ValueError(f"count = {count!r} is no number of arrivals; it was not taken, pass a finite one.")
        t = self.t
        if t - self.since >= HORIZON:
            self._learn(z, t)
        self.features.observe(z)
        lines = self.pending.write(t)
        self.features.write(lines.features)
        if t >= FIRST_STEPS:
            self.regression.predict(lines.features, 2 * self.features.peak, lines.experts[:, 0])
        else:
            lines.experts[:, 0] = self.features.levels[1]
        self.mixture.write(lines.experts, lines.features, self.features)
        self.mixture.combine(lines.experts, lines.mixture)
        self.bands.write(lines.mixture, lines.bounds)
        self._last = lines
        self.t = t + 1

    def _learn(self, z: float, t: int) -> None:
        due = self.pending.due(t)
        error = z - due.mixture
        # The two dearest updates take turns: a third of the steps teaches the covariances, another the weights.
        # Golden-ratio turns, because every third step would see the same hours of every day.
        turn = int(t * GOLDEN % 1.0 * 3)
        self.regression.learn(due.features, z, due.mixture, self.bands.error, self.features.scale, covariance=turn == 0)
        if turn == 1:
            self.mixture.learn(z, due.experts, due.mixture, error)
        self.bands.learn(z, np.abs(error, out=error), due.bounds)

    def forecast(self, h_steps: int) -> tuple[Floats, Floats, Floats]:
        """Mean (aimed at the median), lower and upper end of the central 90 % band, for `h_steps` steps.

        Beyond HORIZON steps the last one is carried on along the profile of the day or week, with a band
        that widens as a random walk's does.
        """
        ends = self._last.ends[: max(h_steps, 0)] if h_steps <= HORIZON else self._extended(h_steps)
        counts = np.maximum(ends * SIGNS, 0.0)
        counts *= counts
        return counts[:, 0], counts[:, 1], counts[:, 2]

    def _extended(self, h_steps: int) -> Floats:
        known = self._last.ends
        more = np.arange(HORIZON + 1, h_steps + 1)
        along = self.features.along_profile(more)
        mean = np.maximum(known[-1, 0] + along, 0)
        wider = np.sqrt(more / HORIZON)
        low, high = (known[-1, 0] + known[-1, 1]) * wider - mean, (known[-1, 2] - known[-1, 0]) * wider + mean
        return np.concatenate([known, np.stack([mean, low, high], axis=1)])

    def skip(self, steps: int) -> None:
        """Let steps pass unseen, as while the planner did not run: day and week keep their phase."""
        if steps <= 0:
            return
        self.features.skip(steps)
        self.t += steps
        self.since = self.t

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays held."""
        parts = (self.features, self.features.history, self.features.pulse, self.pending)
        parts += (self.regression, self.mixture, self.bands)  # type: ignore[assignment]
        arrays = (value for part in parts for value in vars(part).values())
        return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray) and a.base is None)

    def _parts(self) -> dict[str, state.Part]:
        return {
            "forecaster": self,
            "features": self.features,
            "history": self.features.history,
            "pulse": self.features.pulse,
            "pending": self.pending,
            "regression": self.regression,
            "mixture": self.mixture,
            "bands": self.bands,
        }

    def save(self, path: str | PathLike[str], saved_at: float = 0.0) -> None:
        """Write what was learned; the file is replaced whole. Raises OSError.

        Args:
            saved_at: time of the last step by any clock, found again in `saved_at` after `load`.
        """
        self.saved_at = saved_at
        state.save(Path(path), self.step_seconds, self._parts())

    @classmethod
    def load(cls, path: str | PathLike[str], step_seconds: float = 60.0) -> Forecaster:
        """What `save` wrote; a fresh one without a file, or when it is damaged (logged, renamed)."""
        loaded = cls(step_seconds)
        values = state.load(Path(path), loaded.step_seconds, loaded._parts(), cls(step_seconds)._try_out)
        if values is not None:
            loaded._take(values)
        return loaded

    def _take(self, values: state.Values) -> None:
        state.put(values, self._parts())
        self._last = self.pending.write(self.t - 1)

    def _try_out(self, values: state.Values) -> None:
        """Go on with such numbers for a while. Raises Unusable, or an error of arithmetic, where they lead nowhere."""
        self._take(values)
        if self.since > self.t or not self.features.history.is_whole:
            raise state.Unusable("its counters contradict each other")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for _ in range(TRIAL_STEPS):
                self.update(self.features.levels[1] ** 2)
                if not np.max(self.forecast(HORIZON + 1)) <= MOST_COUNT:  # nor a NaN
                    raise state.Unusable("its numbers lead to forecasts that mean nothing")
