"""`shmq limit`: rate limit and circuit breaker of a group or task, while the supervisor runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from shmq.cli.options import ask, attached, namespace_option
from shmq.cli.text import NOTHING, number, seconds, table
from shmq.config.check import nearest
from shmq.errors import ShmqError, UnknownGroup
from shmq.memory.segment import Segment

if TYPE_CHECKING:
    from shmq.observe.model import Limits


@click.command()
@namespace_option
@click.argument("target", metavar="[GROUP|TASK]", required=False)
@click.option("--rate", "rate_per_s", type=click.FloatRange(min=0, min_open=True), help="Jobs started per second.")
@click.option("--burst", type=click.IntRange(min=1), help="Jobs that may start at once after a pause.")
@click.option(
    "--breaker-share",
    "breaker_failure_share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of failures that opens the circuit.",
)
@click.option("--breaker-window", type=click.IntRange(1, 10_000), help="Jobs that the share is taken over.")
@click.option("--breaker-open-s", type=click.FloatRange(min=0, min_open=True), help="Seconds before a probe.")
@click.option("--breaker-mode", type=click.Choice(["wait", "fail"]), help="What an open circuit does to jobs.")
@click.option("--off", is_flag=True, help="Remove rate limit and breaker.")
def limit(namespace: str, target: str | None, off: bool, **changes: Any) -> None:
    """Show or change rate limit and circuit breaker.

    Without options the limits in force are shown. A task has those of the [limits] table that matches it, which it
    shares with all tasks that match; jobs that it holds back notice a change within five seconds. Changes hold until
    the supervisor ends; to keep them write them into the configuration, where the keys have the same names.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if target is None and (changes or off):
        raise click.UsageError("name the group or task to limit: shmq limit GROUP --rate 10")
    if changes and off:
        raise click.UsageError("--off removes all limits; leave out the other options.")
    if not changes and not off:
        with attached(namespace) as segment:
            click.echo(_in_force(segment, target))
        return
    answer = ask(namespace, "limit", target=target, **(changes or {"off": True}))
    click.echo(f"{answer['name']}: " + ("no limits" if off else ", ".join(f"{k} = {v}" for k, v in changes.items())))


def _breaker(limits: Limits) -> list[str]:
    if not limits.breaker_failure_share:
        return [NOTHING, NOTHING]
    return [f"{limits.breaker_failure_share:.0%} of {limits.breaker_window} failed", limits.breaker_mode]


def _in_force(segment: Segment, target: str | None) -> str:
    """All limits, or that of a group, of a `[limits]` table, or of the one that a task matches."""
    from shmq.clock import now_ns
    from shmq.observe.limits import read_task_limits
    from shmq.observe.snapshot import take
    from shmq.tasks.registry import read

    named = {group.name: group.limits for group in take(segment).groups} | read_task_limits(segment, now_ns())
    if target is not None and target not in named:
        tasks = read(segment.state_dir)
        if target not in tasks:
            raise UnknownGroup(f"there is no group and no task {target!r}; {nearest(target, [*named, *tasks])}")
        limit = tasks[target].limit
        if limit is None:
            raise ShmqError(
                f"no [limits] table of the configuration matches task {target!r}; its group may have a limit."
            )
        target = limit[1]
    rows = [
        [
            name,
            f"{limits.rate_per_s:g}/s" if limits.rate_per_s else NOTHING,
            number(limits.burst),
            seconds(limits.held_s or None),
            *_breaker(limits),
            limits.circuit + (f" ({seconds(limits.circuit_s)})" if limits.circuit_s else ""),
        ]
        for name, limits in named.items()
        if target in {None, name}
    ]
    return table(["group or task", ">rate", ">burst", ">held for", "breaker opens at", "and jobs", "circuit"], rows)
