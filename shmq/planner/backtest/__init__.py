"""What the planner would have done on recorded counts, and a picture of it."""

from shmq.planner.backtest.simulation import (
    BUSY_QUANTILE,
    BUSY_SHARE,
    HORIZONS,
    LEARNING_SHARE,
    Backtest,
    Queue,
    Run,
    Score,
    Series,
    Setting,
    backtest,
    learned,
    read_series,
    running_accuracy,
    typical_service_s,
)

__all__ = [
    "BUSY_QUANTILE",
    "BUSY_SHARE",
    "HORIZONS",
    "LEARNING_SHARE",
    "Backtest",
    "Queue",
    "Run",
    "Score",
    "Series",
    "Setting",
    "backtest",
    "learned",
    "read_series",
    "running_accuracy",
    "typical_service_s",
]
