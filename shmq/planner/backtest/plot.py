"""Picture of a backtest: load, forecast band and workers over time. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shmq.errors import ConfigError

if TYPE_CHECKING:
    from shmq.planner.backtest.simulation import Backtest

MOST_STEPS = 400  # more cannot be told apart in one picture: then the last ones are drawn
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
    last = slice(-MOST_STEPS, None)
    hours = np.arange(len(outcome.counts))[last] * outcome.series.step_s / 3600
    load.fill_between(hours, outcome.low[last], outcome.high[last], alpha=0.3, label="90 % band")
    load.plot(hours, outcome.counts[last], color="black", linewidth=0.7, label="came")
    load.plot(hours, outcome.mean[last], linewidth=0.9, label="forecast one step ahead")
    load.set_ylabel(f"jobs per {outcome.series.step_s:g} s")
    load.set_title(f"{outcome.series.name}: {_in_words(outcome)}", fontsize="medium", pad=24)
    for run in outcome.runs:
        if run.name in COLOURS:
            label = f"{run.name}: {run.late_share:.1%} late, {run.worker_seconds / 3600:.3g} worker-hours"
            workers.step(hours, run.workers[last], color=COLOURS[run.name], linewidth=0.9, label=label)
    workers.set_ylabel("workers")
    workers.set_xlabel("hours")
    for axes in (load, workers):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small", frameon=False)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
    figure.savefig(path, dpi=110, format="png")


def _in_words(outcome: Backtest) -> str:
    accuracies = ", ".join(f"{score.accuracy:.0%} {score.horizon} ahead" for score in outcome.scores)
    steps = len(outcome.counts)
    part = f"last {MOST_STEPS} of {steps} steps" if steps > MOST_STEPS else f"{steps} steps"
    return f"{part}; accuracy {accuracies}"
