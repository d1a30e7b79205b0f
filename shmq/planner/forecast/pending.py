"""Forecasts that wait for the truth: what was known, said and promised for each of the next steps.

Row `t % ROWS` holds what was written at step t, one line per horizon 1..H. When step t has come, the lines
due are (t - 1, horizon 1), (t - 2, horizon 2) ... (t - H, horizon H): a diagonal, gathered by one `take`
with a ready-made index.

    line:  features (d) | experts (e) | mixture | minus the lower end of the band, its upper end
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

HORIZON = 15  # steps that are forecast one by one; further ones are extended from these
ROWS = 16  # > HORIZON, so that a line due is never the line being written

Floats = NDArray[np.float64]


class Lines(NamedTuple):
    """Views of HORIZON lines: all numbers on the square-root scale of counts."""

    features: Floats  # (H, d)
    experts: Floats  # (H, e)
    mixture: Floats  # (H,)
    bounds: Floats  # (2, H): minus the lower end, the upper end
    ends: Floats  # (H, 3): mixture and bounds together


class Pending:
    """Ring of lines: `write(t)` gives those to fill at step t, `due(t)` those whose truth is its count."""

    STATE: ClassVar[tuple[str, ...]] = ("ring",)

    def __init__(self, n_features: int, n_experts: int) -> None:
        self._split = (n_features, n_experts)
        self.ring = np.zeros((ROWS, HORIZON, n_features + n_experts + 3))
        self._flat = self.ring.reshape(ROWS * HORIZON, -1)
        self._gathered = np.zeros(self.ring.shape[1:])
        self._due = self._views(self._gathered)
        self._rows = [self._views(row) for row in self.ring]
        h = np.arange(1, HORIZON + 1)
        self._index = [((t - h) % ROWS) * HORIZON + h - 1 for t in range(ROWS)]

    def _views(self, lines: Floats) -> Lines:
        d, e = self._split
        ends = lines[:, d + e :]
        return Lines(lines[:, :d], lines[:, d : d + e], ends[:, 0], ends[:, 1:].T, ends)

    def due(self, t: int) -> Lines:
        """Lines whose truth is the count of step t. Valid until the next call."""
        self._flat.take(self._index[t % ROWS], axis=0, out=self._gathered, mode="clip")
        return self._due

    def write(self, t: int) -> Lines:
        """Lines to fill at step t."""
        return self._rows[t % ROWS]
