"""`shmq status`: groups, workers, producers and memory, read from shared memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from shmq.cli import exits
from shmq.cli.options import attached, json_option, namespace_option
from shmq.cli.text import printable
from shmq.cli.view.render import render

if TYPE_CHECKING:
    from shmq.memory.segment import Segment
    from shmq.observe.model import Problem, Snapshot

_BETWEEN_S = 0.2
"""Between the two looks that a rate needs."""


@click.command()
@namespace_option
@json_option
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--every", default=1.0, show_default=True, metavar="SECONDS", help="Pause between two looks of --watch.")
@click.option("--health", "is_health", is_flag=True, help="Say only what keeps groups from making progress.")
@click.option("--stuck-s", type=float, metavar="SECONDS", help="A worker in one job for longer counts as stuck.")
@click.option("--memory", "is_memory", is_flag=True, help="Show what each group's workers use, and why.")
@click.option("-v", "--verbose", is_flag=True, help="Show each worker and producer as well.")
def status(
    namespace: str,
    as_json: bool,
    watch: bool,
    every: float,
    is_health: bool,
    stuck_s: float | None,
    is_memory: bool,
    verbose: bool,
) -> None:
    """Show groups, workers, producers and memory.

    With --health the exit code is 1 when a group cannot make progress, and the reason is printed.
    """
    from shmq.observe.health import STUCK_S, health
    from shmq.observe.snapshot import take

    with attached(namespace) as segment:
        if is_memory:
            _tell_memory(segment, as_json=as_json)
            return
        if watch:
            _watch(segment, namespace, max(every, 0.05), as_json=as_json, verbose=verbose)
            return
        before = take(segment)
        time.sleep(_BETWEEN_S)
        snapshot = take(segment, before)
    if is_health:
        _tell_health(health(snapshot, before, stuck_s=STUCK_S if stuck_s is None else stuck_s), as_json=as_json)
    elif as_json:
        click.echo(msgspec.json.encode(snapshot))
    else:
        click.echo(render(snapshot, namespace, verbose=verbose))


def _tell_memory(segment: Segment, *, as_json: bool) -> None:
    from shmq.cli.view.memory import render as render_memory
    from shmq.memcheck.usage.look import look

    found = look(segment)
    click.echo(msgspec.json.encode(found) if as_json else render_memory(found))


def _tell_health(problems: list[Problem], *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(problems))
    else:
        for problem in problems:
            where = f"group {problem.group}" if problem.group else "everything"
            click.echo(printable(f"{where}: {problem.reason}; {problem.advice}"))
        if not problems:
            click.echo("every group can make progress")
    if problems:
        sys.exit(exits.FAILED)


def _watch(segment: Segment, namespace: str, every_s: float, *, as_json: bool, verbose: bool) -> None:
    """Snapshots until Ctrl-C: on a terminal in place, else (and as JSON) one after the other."""
    if as_json or not sys.stdout.isatty():
        _each(segment, every_s, lambda snapshot: _print(snapshot, namespace, as_json=as_json, verbose=verbose))
        return
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:

        def show(snapshot: Snapshot) -> None:
            text = render(snapshot, namespace, verbose=verbose)
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

        _each(segment, every_s, show)


def _print(snapshot: Snapshot, namespace: str, *, as_json: bool, verbose: bool) -> None:
    click.echo(msgspec.json.encode(snapshot) if as_json else render(snapshot, namespace, verbose=verbose) + "\n")
    sys.stdout.flush()


def _each(segment: Segment, every_s: float, show: Callable[[Snapshot], object]) -> None:
    from shmq.observe.snapshot import take

    snapshot = None
    while True:
        snapshot = take(segment, snapshot)
        show(snapshot)
        time.sleep(every_s)
