"""`shmq soak`: a day of load in minutes, and whether anything leaks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shmq.cli import exits
from shmq.cli.jobs.waiting import end_as_by_ctrl_c
from shmq.cli.leaks.show import show
from shmq.memory.segment import Segment

if TYPE_CHECKING:
    from shmq.memcheck.soak.runner import Outcome

_SAY_EVERY_S = 60.0  # where no terminal shows a bar


_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("config", metavar="[CONFIG]", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--jobs", "jobs_file", metavar="FILE", type=click.File(), help='Your jobs: lines of ["task", argument, ...].'
)
@click.option("--hours", type=_POSITIVE, default=24.0, show_default=True, help="Of load.")
@click.option("--minutes", type=_POSITIVE, help="Of clock.  [default: 10; --lean: as it takes]")
@click.option("--wall", is_flag=True, help="Run real hours.")
@click.option("--rate", type=_POSITIVE, help="Jobs/s of the load.  [default: 120; --lean: 1000]")
@click.option("--lean", is_flag=True, help="Small jobs only, as fast as possible.")
@click.option(
    "--trace",
    type=click.Choice(["suspects", "all", "none"]),
    default="suspects",
    show_default=True,
    help="Whose workers memray looks at after the run.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the run.  [default: soak-DATE]")
def soak(
    config: Path | None, jobs_file: Any, hours: float, minutes: float | None, wall: bool, rate: float | None,
    lean: bool, trace: str, out: Path | None,
) -> None:  # fmt: skip
    """Run a day of load in minutes and say what leaks.

    A supervisor of its own namespace runs a built-in mixed workload, or, with CONFIG and --jobs, your tasks. The
    load follows a working day. Exit code 0: no leak; 1: a leak, or too short to tell. Ctrl-C or
    SIGTERM ends the run early and judges what was seen.
    """
    from shmq.memcheck.soak.runner import Runner, Settings
    from shmq.observe.snapshot import take
    from shmq.supervisor.control import request

    if wall and (minutes is not None or lean):
        raise click.UsageError("--wall runs real hours: leave out --minutes and --lean")
    if (config is None) != (jobs_file is None):
        raise click.UsageError("CONFIG and --jobs FILE belong together: soak cannot know your tasks' arguments")
    if lean and config is not None:
        raise click.UsageError("--lean is a built-in workload: leave out CONFIG and --jobs")
    settings = Settings(
        out=out or Path(f"soak-{time.strftime('%Y%m%d-%H%M%S')}"),
        hours=hours,
        minutes=None if wall or (lean and minutes is None) else minutes or 10.0,
        lean=lean,
        config=config,
        own_jobs=[] if jobs_file is None else _own_jobs(jobs_file),
        jobs_per_s=rate,
        trace=trace,
    )
    click.echo(settings.words)

    def control(segment: Segment, command: str, **arguments: Any) -> object:
        return request(segment.state_dir, command, **arguments)

    end_as_by_ctrl_c()
    with _progress() as progress:
        outcome = Runner(settings, take, control, progress).run()
    _say(outcome)
    show(outcome.findings, outcome.report)
    if outcome.counts.wrong or outcome.problems:
        click.echo("the run itself had problems, see above", err=True)
        sys.exit(exits.FAILED)
    sys.exit(outcome.findings.exit_code)


def _own_jobs(file: Any) -> list[list[Any]]:
    try:
        lines = file.readlines()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"the file is no text: {error}", param_hint="--jobs") from None
    jobs: list[list[Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            job = json.loads(line)
        except ValueError as error:
            raise click.BadParameter(f"line {number}: {error}", param_hint="--jobs") from None
        if not isinstance(job, list) or not job or not isinstance(job[0], str):
            raise click.BadParameter(
                f'line {number}: {line.strip()[:60]!r} is not ["task", argument, ...]', param_hint="--jobs"
            )
        jobs.append(job)
    if not jobs:
        raise click.BadParameter("the file holds no job", param_hint="--jobs")
    return jobs


def _say(outcome: Outcome) -> None:
    """What the run brought."""
    facts, counts = outcome.facts, outcome.counts
    ended = "interrupted after" if facts["interrupted"] else "ran"
    lines = [
        (
            f"{ended} {facts['run_s'] / 60:.1f} minutes: {counts.ended:,} jobs, {facts['hours_covered']:.1f} h "
            f"of the load ({facts['acceleration']:,.1f} times as fast)"
        ),
        (
            f"{counts.failed:,} failed, {counts.retried:,} retried, {counts.timed_out:,} timed out, "
            f"{counts.cancelled:,} cancelled, {counts.large:,} large; {counts.wrong:,} wrong"
        ),
        (
            f"{facts['recycled']:,} workers recycled, {facts['crashed']:,} crashed, "
            f"{facts['scale_changes']:,} scale changes, {facts['processes_seen']:,} processes seen"
        ),
    ]
    if facts.get("pace"):
        cost, aged_per_s, fresh_per_s = facts["pace"]
        lines.append(
            f"throughput at equal load, by CPU time: {1 / cost - 1:+.1%} after the run against a fresh system "
            f"beside it ({aged_per_s:,.0f} and {fresh_per_s:,.0f} calls/s by the clock)"
        )
    if outcome.is_own and counts.failed:
        lines.append(f"how a job of each task failed first: {outcome.log}")
    click.echo("\n".join(lines) + "\n")


@contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left on a terminal, else a line per minute."""
    if not sys.stderr.isatty():
        said_s = time.monotonic()

        def line(share: float, text: str) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= _SAY_EVERY_S:
                said_s = time.monotonic()
                click.echo(f"{share:.0%}: {text}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.percentage:.0f} %  {task.description}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda share, text: bar.update(task, completed=share, description=text)
