"""Online load forecasts: one `Forecaster` per group. Methods and figures: `shmq/planner/README.md`."""

from __future__ import annotations

from shmq.planner.forecast.forecaster import Forecaster

__all__ = ["Forecaster"]
