"""The central 90 % band, calibrated as it goes.

Each end is the forecast plus a multiple of the error's present size (a short and a long running mean of
|error|). The multiple moves up by RATE * 0.95 at each miss and down by RATE * 0.05 at each hit, so its
long-run share of misses is 5 % whatever the distribution (adaptive conformal inference: Gibbs & Candès
2021; quantile tracking: Angelopoulos, Candès & Tibshirani 2023). A series that is mostly zero covers its
zeros from below for free; the lower end then rises in the busy steps until it too misses 5 %.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from shmq.planner.forecast.pending import HORIZON, Floats

MISS = 0.05  # share of steps beyond each end
RATE = 0.025
SIZE_STEPS = (30.0, 500.0)
LEAST_SIZE = 0.05


class Bands:
    """Error sizes (3, H: short, long, the least one) and multiples (2, H: below, above)."""

    STATE: ClassVar[tuple[str, ...]] = ("sizes", "multiples", "seen")

    def __init__(self) -> None:
        self.sizes: Floats = np.full((3, HORIZON), 0.5)
        self.sizes[2] = LEAST_SIZE
        self.multiples: Floats = np.tile([[0.75], [1.0]], HORIZON)
        self.seen = 0
        self.error = self.sizes[1]  # mean absolute error per horizon (H,), long memory
        self._running = self.sizes[:2]
        self._rates = 1 / np.array(SIZE_STEPS)[:, None]
        self._truth = np.zeros((2, 1))
        self._sides = np.array([[-1.0], [1.0]])
        self._sum = np.ones(3)
        self._signed = np.zeros((2, HORIZON))

    def learn(self, z: float, error: Floats, bounds: Floats) -> None:
        """Take the truth z, the errors |z - said| (H,) and the bounds (2, H) that had been promised."""
        self.seen += 1
        rates = self._rates
        if self.seen < SIZE_STEPS[1]:
            rates = np.maximum(rates, 1 / (self.seen + 1))
        step = error - self._running
        step *= rates
        self._running += step
        truth = self._truth
        truth[0, 0] = -z
        truth[1, 0] = z
        move = (truth > bounds) - MISS
        move *= RATE
        self.multiples += move

    def write(self, said: Floats, bounds: Floats) -> None:
        """Fill the bounds (2, H: minus the lower end, the upper end) around the forecast `said` (H,)."""
        np.multiply(self.multiples, self._sum.dot(self.sizes), out=bounds)
        bounds += np.multiply(self._sides, said, out=self._signed)
