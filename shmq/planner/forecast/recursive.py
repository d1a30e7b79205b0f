"""One recursive regression per horizon, aimed at the median.

Recursive least squares with forgetting (Ljung & Söderström, Theory and Practice of Recursive
Identification, 1983), each step weighted by 1 / |error| (iteratively reweighted least squares:
Schlossmacher, JASA 1973), which makes it a least-absolute-deviations fit, and by the level, because an
error of a square root weighs twice that root once squared. All horizons are one batch of arrays.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from shmq.planner.forecast.features import FIRST_LEVEL, N_FEATURES
from shmq.planner.forecast.pending import HORIZON, Floats

MEMORY_STEPS = 1500.0
SOFTNESS = 0.5  # errors below this many mean absolute errors weigh alike: 1/0 has to end somewhere
PRIOR = 3.0  # variance of a coefficient before anything is known
LEAST_LEVEL = 0.1  # of the scale: weight of steps near zero
CHECK_STEPS = 64


class RecursiveMedian:
    """Coefficients (H, d) and their covariances (H, d, d)."""

    STATE: ClassVar[tuple[str, ...]] = ("coefficients", "covariance", "growth", "_since")

    def __init__(self) -> None:
        d = N_FEATURES
        self.coefficients: Floats = np.zeros((HORIZON, d))
        self.coefficients[:, FIRST_LEVEL + 1 : FIRST_LEVEL + 3] = 0.5
        self.covariance: Floats = np.tile(PRIOR * np.eye(d), (HORIZON, 1, 1))
        self.growth = 1.0  # forgetting so far; multiplied into the covariance every CHECK_STEPS
        self._outer = np.zeros_like(self.covariance)
        self._gain = np.zeros((HORIZON, d, 1))
        self._gain_row = self._gain.transpose(0, 2, 1)
        self._gain_flat = self._gain[:, :, 0]
        self._spread = np.zeros((HORIZON, 1, 1))
        self._since = 0
        self._product = np.zeros((HORIZON, d))
        self._ones = np.ones(d)

    def learn(self, x: Floats, z: float, said: Floats, error: Floats, scale: float, *, covariance: bool) -> None:
        """Take the truth z of the lines x (H, d), for which `said` (H,) was forecast.

        `error`: mean absolute error per horizon; `scale`: of the counts; `covariance`: learn that too (the
        dear part).
        """
        e = z - np.multiply(x, self.coefficients, out=self._product).dot(self._ones)
        gain = np.matmul(self.covariance, x[:, :, None], out=self._gain)
        noise = np.maximum(np.abs(e), SOFTNESS * error)
        noise /= error * np.maximum(said, LEAST_LEVEL * scale)
        noise *= scale**3 * (1 - 1 / MEMORY_STEPS) / self.growth
        spread = np.matmul(x[:, None, :], gain, out=self._spread)[:, 0, 0]
        noise += spread
        e /= noise
        self.coefficients += self._gain_flat * e[:, None]
        if not covariance:
            return
        row = np.divide(self._gain_row, noise[:, None, None])
        outer = np.multiply(gain, row, out=self._outer)
        self.covariance -= outer
        self.growth /= 1 - 1 / MEMORY_STEPS
        self._since += 1
        if self._since >= CHECK_STEPS:
            self._settle()

    def _settle(self) -> None:
        """Apply the forgetting; what is never excited would grow without end, so the total is bounded."""
        self._since = 0
        self.covariance *= self.growth
        self.growth = 1.0
        total = np.einsum("hdd->h", self.covariance)
        bound = 2 * PRIOR * N_FEATURES
        if total.max() > bound:
            self.covariance *= (bound / np.maximum(total, bound))[:, None, None]

    def predict(self, x: Floats, most: float, out: Floats) -> None:
        """Forecast the lines x (H, d) into `out` (H,), within 0 and `most`."""
        said = np.multiply(x, self.coefficients, out=self._product).dot(self._ones)
        np.maximum(said, 0, out=out)
        np.minimum(out, most, out=out)
