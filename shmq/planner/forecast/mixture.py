"""Experts and their loss-weighted mixture, one set of weights per horizon.

Weights are exponential in the discounted regret over its root sum of squares, on the linearised absolute
loss of counts (exponentiated gradient: Kivinen & Warmuth 1997; second-order rates per expert: Cesa-Bianchi,
Mansour & Stoltz 2007, as in Bernstein online aggregation, Wintenberger 2017).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from shmq.planner.forecast.features import (
    FIRST_DAILY,
    FIRST_LEVEL,
    FIRST_WEEKLY,
    N_LEVELS,
    OWN_DAILY,
    OWN_WEEKLY,
    Features,
)
from shmq.planner.forecast.pending import HORIZON, Floats

N_EXPERTS = 1 + N_LEVELS + 4
REGRESSION_WEIGHT = 4.0  # before anything is known, against 1 for each other
DISCOUNT = 0.9995
LEVEL_STEPS = 500.0


class Mixture:
    """Weights (H, e) of the experts: the regression, running means, daily and weekly profile.

    A profile speaks twice: as it is, and moved to the present level.
    """

    STATE: ClassVar[tuple[str, ...]] = ("losses", "weights", "level", "seen")

    def __init__(self) -> None:
        self.prior: Floats = np.ones(N_EXPERTS)
        self.prior[0] = REGRESSION_WEIGHT
        self.prior /= self.prior.sum()
        self.losses: Floats = np.zeros((2, HORIZON, N_EXPERTS))  # discounted sums: regret, its square
        self.losses[1] = 1e-2
        self.weights: Floats = np.tile(self.prior, (HORIZON, 1))
        self.level = 0.0
        self._news = np.zeros_like(self.losses)
        self._product = np.zeros((HORIZON, N_EXPERTS))
        self._ones = np.ones(N_EXPERTS)
        self.seen = 0

    def learn(self, z: float, experts: Floats, said: Floats, error: Floats) -> None:
        """Take the truth z of what the experts (H, e) and the mixture (H,) said; `error` = z - said."""
        self.seen += 1
        self.level += max(1 / LEVEL_STEPS, 1 / self.seen) * (z * z - self.level)
        slope = np.sign(error)
        slope *= said
        slope *= 2 / max(self.level, 0.1)
        r, square = self._news
        np.subtract(experts, said[:, None], out=r)
        r *= slope[:, None]
        np.multiply(r, r, out=square)
        self.losses *= DISCOUNT
        self.losses += self._news
        weights = self.weights
        np.sqrt(self.losses[1], out=weights)
        np.divide(self.losses[0], weights, out=weights)
        np.exp(weights, out=weights)
        weights *= self.prior
        weights /= weights.dot(self._ones)[:, None]

    def write(self, experts: Floats, x: Floats, features: Features) -> None:
        """Fill in what the simple experts say for the lines x; column 0, the regression, is there already."""
        means = features.common
        experts[:, 1 : 1 + N_LEVELS] = features.levels
        here = means[FIRST_LEVEL + 1]
        i = 1 + N_LEVELS
        if features.days:
            experts[:, i] = x[:, OWN_DAILY]
            np.maximum(x[:, OWN_DAILY] + (here - means[FIRST_DAILY]), 0, out=experts[:, i + 1])
        else:
            experts[:, i : i + 2] = experts[:, :1]
        if features.weeks:
            experts[:, i + 2] = x[:, OWN_WEEKLY]
            np.maximum(x[:, OWN_WEEKLY] + (here - means[FIRST_WEEKLY]), 0, out=experts[:, i + 3])
        else:
            experts[:, i + 2 :] = experts[:, :1]

    def combine(self, experts: Floats, out: Floats) -> None:
        """Weighted mean of the experts (H, e) into `out` (H,)."""
        np.multiply(self.weights, experts, out=self._product)
        np.matmul(self._product, self._ones, out=out)
