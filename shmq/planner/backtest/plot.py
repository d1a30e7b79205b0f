"""Picture of a backtest: load, forecast band and workers over time. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shmq.errors import ConfigError

if TYPE_CHECKING:
    from shmq.planner.backtest.simulation import Backtest
    from shmq.planner.forecast.pending import Floats

MOST_POINTS = 2000  # more than a picture has columns for: neighbours become one
COLOURS = {"predictive": "tab:blue", "reactive": "tab:orange", "oracle": "tab:green"}


def plot(outcome: Backtest, path: str | Path) -> None:
    """Write a PNG. Raises ConfigError when matplotlib is missing, OSError when the file cannot be written."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"the plot needs matplotlib, which cannot be imported ({error}). "
            "Install it (pip install 'shmq[plot]') or leave the plot out."
        ) from error
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    load, workers = figure.subplots(2, 1, sharex=True)
    group = -(-len(outcome.counts) // MOST_POINTS)
    hours = _thin(np.arange(len(outcome.counts)) * outcome.series.step_s / 3600, group)
    low, high = _thin(outcome.low, group), _thin(outcome.high, group)
    load.fill_between(hours, low, high, alpha=0.3, label="90 % band")
    load.plot(hours, _thin(outcome.counts, group), color="black", linewidth=0.7, label="came")
    load.plot(hours, _thin(outcome.mean, group), linewidth=0.7, label="forecast one step ahead")
    load.set_ylabel(f"jobs per {outcome.series.step_s:g} s")
    load.set_title(f"{outcome.series.name}: {_in_words(outcome)}", fontsize="medium")
    for run in outcome.runs:
        if run.name in COLOURS:
            label = f"{run.name}: {run.late_share:.1%} late, {run.worker_seconds / 3600:.3g} worker-hours"
            line = _thin(run.workers, group)
            workers.step(hours, line, color=COLOURS[run.name], linewidth=0.9, label=label)
    workers.set_ylabel("workers")
    workers.set_xlabel("hours")
    for axes in (load, workers):
        axes.legend(loc="upper left", fontsize="small")
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=110, format="png")


def _in_words(outcome: Backtest) -> str:
    return ", ".join(f"accuracy {score.accuracy:.0%} {score.horizon} ahead" for score in outcome.scores)


def _thin(values: Floats, group: int) -> Floats:
    """Means of `group` neighbours."""
    whole = len(values) // group * group
    means: Floats = values[:whole].reshape(-1, group).mean(axis=1)
    return means
