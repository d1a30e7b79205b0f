"""`shmq leaks report` and `shmq leaks attach`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shmq.cli.leaks.show import show
from shmq.cli.options import attached, known_group, namespace_option
from shmq.errors import TracingError

if TYPE_CHECKING:
    from shmq.memcheck.traces import Site

_LEAST_UNKNOWN_BYTES = 4096
_FOLLOW_S = 1.0  # after the time is over, for workers to close and compress their files


@click.group()
def leaks() -> None:
    """Look for the lines and tasks behind growing memory."""


@leaks.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--traces", type=click.Choice(["suspects", "all", "none"]), default="suspects", show_default=True,
              help="Whose memray files to evaluate.")  # fmt: skip
def report(folder: Path, traces: str) -> None:
    """Judge a run again from its folder.

    Writes report.html and result.json there, also for a run that was killed. Exit code as of `shmq soak`.
    """
    from shmq.memcheck.report import write_report

    path, findings = write_report(folder, traces=traces)
    show(findings, path)
    sys.exit(findings.exit_code)


@leaks.command()
@namespace_option
@click.argument("group")
@click.option("--seconds", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help="How long to look.")
@click.option("--native", is_flag=True, help="Trace C stacks as well; slower and larger by a multiple.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="For the files.  [default: leaks-DATE]")
def attach(namespace: str, group: str, seconds: float, native: bool, out: Path | None) -> None:
    """Trace running workers of a group with memray.

    Nothing is restarted. Meanwhile code that mostly allocates is 5 to 7 times slower. Shown are the lines that held
    more at the end of the time than half-way through it.
    """
    from shmq.memcheck.soak.orders import Order, give, withdraw
    from shmq.memcheck.traces import trace_files
    from shmq.memcheck.tracing import problems, require_memray, require_room

    require_memray()
    known_group(namespace, group)
    folder = (out or Path(f"leaks-{time.strftime('%Y%m%d-%H%M%S')}")).absolute()
    require_room(folder)
    if trace_files(folder):
        raise TracingError(f"{folder} already holds traces, which would be taken for new ones. Choose another folder.")
    with attached(namespace) as segment:
        pids = give(segment, group, Order(str(folder), time.monotonic() + seconds, native))
        click.echo(f"{group}: {len(pids)} workers told; tracing for {seconds:g} s into {folder}", err=True)
        try:
            time.sleep(seconds)
        except KeyboardInterrupt:
            click.echo("stopped early; what was traced is shown", err=True)
        finally:
            withdraw(segment, group)
        time.sleep(_FOLLOW_S)
    given_up = problems(folder)
    if not trace_files(folder):
        raise TracingError(
            "\n".join(given_up)
            or f"no worker of {group!r} wrote a trace: none of them ended a job or slept meanwhile. Look for longer."
        )
    for problem in given_up:
        click.echo(problem, err=True)
    _show(folder)


def _show(folder: Path) -> None:
    """Sites of each process that has files, and flame graphs of those that grew most: recycled ones may be hundreds."""
    from shmq.memcheck.report.findings import MOST_FLAME_GRAPHS, merged, with_unit
    from shmq.memcheck.traces import flame_graph, load_sources, sites, trace_files

    sources = load_sources(folder)
    by_process: dict[str, list[Path]] = {}
    for file in trace_files(folder):
        by_process.setdefault(f"{file.process} ({file.pid})", []).append(file.path)
    grown = {
        process: [site for site in merged(site for path in paths for site in sites(path, sources)) if _is_growth(site)]
        for process, paths in by_process.items()
    }
    heaviest = sorted(grown, key=lambda process: -sum(site.grown_bytes for site in grown[process]))
    for process, found in grown.items():
        click.echo(process)
        for site in sorted(found, key=lambda site: -site.grown_bytes)[:5]:
            click.echo(
                f"  {with_unit(site.grown_bytes, 'bytes'):>10}  {site.grown_allocations:>8,} allocations  "
                f"{site.file}:{site.line} in {site.function}, task {site.task or 'unknown'}"
            )
        if not found:
            click.echo("  nothing grew")
        if process in heaviest[:MOST_FLAME_GRAPHS]:
            last = by_process[process][-1]
            click.echo(f"  flame graph: {flame_graph(last, folder / f'{last.stem}.html')}")


def _is_growth(site: Site) -> bool:
    """Little that no task made is the worker's own, such as what obeying the order takes."""
    return site.task is not None or site.grown_bytes >= _LEAST_UNKNOWN_BYTES
