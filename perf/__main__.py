"""`python -m perf [SCENARIO...]`: measure, judge, compare, draw."""

from __future__ import annotations

import datetime as dt
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from perf import floors, harness, machine, peers, results, scenarios, verdict
from perf.present import plot, table

EXIT_FAILED = 1  # a target, the gate or the comparison says no


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[SCENARIO]...", nargs=-1)
@click.option("--short", is_flag=True, help="Three rounds of a third of a second: a look, not a measurement.")
@click.option("--rounds", type=click.IntRange(1, 99), help="Rounds per scenario (7, short: 3).")
@click.option("--peers", "wanted", default="all", help="Names, comma-separated; 'all' that are installed; 'none'.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Keep the run as JSON.")
@click.option("--against", type=click.Path(exists=True, path_type=Path), help="Compare with a kept run, by ratios.")
@click.option("--plot", "pictures", type=click.Path(file_okay=False, path_type=Path), help="Draw PNG and SVG here.")
@click.option(
    "--gate",
    is_flag=True,
    help="For CI: short, only the peers of the targets, fails below half of 'at least'.",
)
@click.option("--list", "listing", is_flag=True, help="Name scenarios and peers, and what is missing for them.")
def main(
    names: tuple[str, ...],
    short: bool,
    rounds: int | None,
    wanted: str,
    save: Path | None,
    against: Path | None,
    pictures: Path | None,
    gate: bool,
    listing: bool,
) -> None:
    """Measures shmq beside its peers and the machine's floors; all scenarios or those named."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        chosen = scenarios.load(names)
        beside = _peers("ProcessPoolExecutor,Pool" if gate and wanted == "all" else wanted)
        earlier = results.load(against) if against else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if save and not save.parent.is_dir():
        raise click.UsageError(f"--save {save}: there is no folder {save.parent}")
    if listing:
        _list(console, beside)
        return
    short = short or gate
    setting = harness.Setting(short, rounds or (3 if short else 7), 0.3 if short else 1.0, 2, tuple(beside))
    run = measure(console, chosen, setting)
    for outcome in run.outcomes:
        console.print(table.measured(outcome))
    console.print(table.targets(run))
    console.print(table.machine(run))
    if save:
        results.save(run, save)
    if pictures:
        console.print(*(f"drew {path}" for path in plot.draw(run, pictures)), sep="\n")
    sys.exit(_verdict(console, run, earlier, gate))


def measure(console: Console, chosen: list[harness.Scenario], setting: harness.Setting) -> results.Run:
    """All scenarios in turn, with the yardstick and the machine."""
    on, ticks = machine.describe(), machine.cpu_ticks()
    with console.status("starting") as status:
        yardstick = floors.yardstick()
        outcomes = [harness.run(scenario, setting, status.update) for scenario in chosen]
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return results.Run(results.FORMAT, started, setting.short, yardstick, machine.finished(on, ticks), outcomes)


def _peers(wanted: str) -> list[peers.Peer]:
    return [] if wanted == "none" else peers.load([] if wanted == "all" else wanted.split(","))


def _list(console: Console, beside: list[peers.Peer]) -> None:
    for scenario in scenarios.load():
        console.print(f"{scenario.name:14} {scenario.title}", highlight=False)
    for peer in beside:
        console.print(f"{peer.label:28} {peer.missing() or 'ready'}", highlight=False)


def _verdict(console: Console, run: results.Run, earlier: results.Run | None, gate: bool) -> int:
    """The exit code: gate and comparison decide where asked for, else the targets."""
    status = 0
    if earlier is not None:
        found = verdict.compare(run, earlier)
        console.print(table.comparison(found))
        status = EXIT_FAILED if any(item.change == "regression" for item in found) else 0
    if gate:
        for outcome, check in verdict.below_margin(run):
            console.print(
                f"gate: {outcome.name}: {check.label} beside {check.against}: {table.ratio(check)}",
                style="red",
            )
            status = EXIT_FAILED
    elif earlier is None and any(verdict.mark(check) == "fail" for outcome in run.outcomes for check in outcome.checks):
        status = EXIT_FAILED
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # contestants must be closed
    main()
