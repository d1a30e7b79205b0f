"""`shmq forecast backtest`: accuracy, waits and cost on a file of counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from shmq.cli.options import json_option
from shmq.cli.text import number, printable, seconds, table

if TYPE_CHECKING:
    from shmq.planner.backtest import Backtest, Series, Setting

_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
_SHARE = click.FloatRange(min=0, max=1, min_open=True, max_open=True)


@click.command()
@click.argument("file", metavar="FILE.csv", type=click.Path(path_type=Path))
@click.option(
    "--step", "step_s", type=_ABOVE_ZERO, metavar="SECONDS", help="Between two counts; else the file has to say."
)
@click.option(
    "--service-s", type=_ABOVE_ZERO, metavar="SECONDS",
    help="What a job takes; by default so much that the busiest steps need three quarters of the workers.",
)  # fmt: skip
@click.option("--target-wait-s", type=_ABOVE_ZERO, metavar="SECONDS", help="A later job is late; default: half of it.")
@click.option("--miss-ratio", type=_SHARE, default=0.05, show_default=True, help="Share of late jobs allowed.")
@click.option("--min-workers", type=click.IntRange(0, 1000), default=1, show_default=True)
@click.option("--max-workers", type=click.IntRange(1, 1000), default=32, show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 1000), default=1, show_default=True, help="Jobs of a worker.")
@click.option("--hold-s", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS")
@click.option("--ready-s", type=_ABOVE_ZERO, default=0.5, show_default=True, help="From order to first job.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw load and workers.")
@json_option
def backtest(
    file: Path,
    step_s: float | None,
    service_s: float | None,
    target_wait_s: float | None,
    picture: Path | None,
    as_json: bool,
    **rules: Any,
) -> None:
    """Say what the planner would have done on recorded counts.

    FILE.csv holds one count per step in its last column; '# step_seconds: 60' above says how long a step is. The
    first quarter is only learned from. Nothing of a step is known before it, except to the oracle.
    """
    from shmq.planner.backtest import backtest as run
    from shmq.planner.backtest import read_series
    from shmq.planner.backtest.plot import plot

    _check_bounds(rules["min_workers"], rules["max_workers"])
    series = read_series(file, step_s)
    setting = _setting(series, service_s, target_wait_s, rules)
    outcome = run(series, setting)
    click.echo(msgspec.json.encode(_as_dict(outcome)) if as_json else _report(outcome))
    if picture is not None:
        try:
            plot(outcome, picture)
        except OSError as error:
            raise click.ClickException(f"the plot cannot be written: {error}") from error


def _check_bounds(least: int, most: int) -> None:
    if least > most:
        raise click.BadParameter(f"{least} is more than --max-workers {most}.", param_hint="--min-workers")


def _setting(series: Series, service_s: float | None, target_s: float | None, rules: dict[str, Any]) -> Setting:
    from shmq.planner.backtest import Setting, typical_service_s
    from shmq.planner.staffing import Goal

    miss_ratio = rules.pop("miss_ratio")
    if service_s is None:
        service_s = typical_service_s(series, rules["max_workers"], rules["concurrency"])
    return Setting(service_s, Goal(target_s or service_s / 2, miss_ratio), **rules)


def _report(outcome: Backtest) -> str:
    setting, series = outcome.setting, outcome.series
    accuracy = table(
        [">steps ahead", ">time ahead", ">accuracy", ">within the band", ">above it"],
        [
            [
                str(score.horizon),
                seconds(score.horizon * series.step_s),
                f"{score.accuracy:.3f}",
                f"{score.coverage:.3f}",
                f"{score.above:.3f}",
            ]
            for score in outcome.scores
        ],
    )
    ways = table(
        ["scaling", ">late jobs", ">worker-seconds", ">of fixed", ">mean workers", ">most", ">spawns", ">reaps"],
        [
            [
                run.name,
                f"{run.late_share:.3f}",
                number(run.worker_seconds),
                f"{run.worker_seconds / _fixed(outcome):.3f}",
                f"{run.workers.mean():.1f}",
                f"{run.workers.max():.0f}",
                number(run.spawns),
                number(run.reaps),
            ]
            for run in outcome.runs
        ],
    )
    return (
        f"{printable(series.name)}: {len(outcome.counts)} steps of {seconds(series.step_s)} after "
        f"{outcome.first} learned from; {outcome.counts.mean():.1f} arrivals per step\n\n"
        f"{accuracy}\n\njobs of {seconds(setting.service_s)}, late after {seconds(setting.goal.target_wait_s)}, "
        f"{setting.min_workers} to {setting.max_workers} workers\n{ways}"
    )


def _fixed(outcome: Backtest) -> float:
    return next(run.worker_seconds for run in outcome.runs if run.name == "fixed")


def _as_dict(outcome: Backtest) -> dict[str, Any]:
    runs = [
        {name: getattr(run, name) for name in ("name", "late_share", "worker_seconds", "spawns", "reaps")}
        | {"workers": run.workers.tolist()}
        for run in outcome.runs
    ]
    return {
        "series": outcome.series.name, "step_s": outcome.series.step_s, "first_step": outcome.first,
        "service_s": outcome.setting.service_s, "target_wait_s": outcome.setting.goal.target_wait_s,
        "counts": outcome.counts.tolist(), "mean": outcome.mean.tolist(), "low": outcome.low.tolist(),
        "high": outcome.high.tolist(), "accuracy": outcome.scores, "runs": runs,
    }  # fmt: skip
