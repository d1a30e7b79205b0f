"""stop, drain, reload, pause, resume, scale: one request to the supervisor each."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any

import click

from shmq.cli import exits
from shmq.cli.options import ask, attached, known_group, namespace_option, segment_exists
from shmq.cli.text import printable
from shmq.clock import start_ticks
from shmq.errors import NotRunning

_LOOK_EVERY_S = 0.02
group_argument = click.argument("group")
wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when the supervisor has ended."
)


@click.command()
@namespace_option
@click.option("--now", is_flag=True, help="Kill workers at once; the next supervisor runs their jobs.")
@click.option("--grace-s", type=click.FloatRange(min=0), metavar="SECONDS", help="Time for jobs to finish.")
@wait_option
def stop(namespace: str, now: bool, grace_s: float | None, wait: bool) -> None:
    """Stop the supervisor; jobs that wait stay accepted.

    Running jobs have the configuration's grace time to finish; what it cuts off runs again under the next
    supervisor, as do all jobs that wait.
    """
    if now:
        grace_s = 0.0
    _end(namespace, wait, "stop", {} if grace_s is None else {"grace_s": grace_s})


@click.command()
@namespace_option
@wait_option
def drain(namespace: str, wait: bool) -> None:
    """Run what was submitted, then stop the supervisor.

    It ends once no job is left. Ctrl-C ends the waiting here, not the draining.
    """
    _end(namespace, wait, "drain", {})


def _end(namespace: str, wait: bool, command: str, arguments: dict[str, Any]) -> None:
    """Send the request that ends the supervisor and wait for its end."""
    from shmq.supervisor.namespace import jobs_left

    try:
        with attached(namespace) as segment:
            if _was_ended(namespace, wait, command, arguments, _supervisor(namespace)):
                left = jobs_left(segment)
                click.echo("stopped" + (f"; {left} unfinished jobs wait for the next supervisor" if left else ""))
    except NotRunning:
        if segment_exists(namespace):
            raise
        # the segment's name was removed while in use: the supervisor still listens in its state directory
        pidfd = os.pidfd_open(ask(namespace, "ping")["pid"])
        if _was_ended(namespace, wait, command, arguments, pidfd):
            click.echo("stopped; its segment had been removed while it ran")


def _was_ended(namespace: str, wait: bool, command: str, arguments: dict[str, Any], pidfd: int) -> bool:
    """Send the request; wait until the process of `pidfd` has ended unless told not to."""
    try:
        ask(namespace, command, **arguments)
        if not wait:
            click.echo(f"{command}: told the supervisor of namespace {namespace}")
            return False
        select.select([pidfd], [], [])
        return True
    finally:
        os.close(pidfd)


def _supervisor(namespace: str) -> int:
    """A descriptor that becomes readable when the namespace's supervisor ends. Raises NotRunning."""
    with attached(namespace) as segment:
        pid, ticks = segment.header("supervisor_pid"), segment.header("supervisor_ticks")
    pidfd = _open(pid)
    if pidfd >= 0 and (not ticks or start_ticks(pid) == ticks):  # asked after opening: the pid stays its own
        return pidfd
    if pidfd >= 0:
        os.close(pidfd)
    raise NotRunning(
        f"the supervisor of namespace {namespace!r} has ended; its segment is still there.\n"
        "Start one with `shmq supervise config.toml`; it goes on with the jobs left."
    )


def _open(pid: int) -> int:
    try:
        return os.pidfd_open(pid) if 0 < pid < 2**31 else -1
    except ProcessLookupError:
        return -1


@click.command()
@namespace_option
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="How long to wait for it.")
def reload(namespace: str, timeout: float) -> None:
    """Take new task code without losing a job.

    The task modules that the configuration names by now are imported anew, then workers are replaced one by one.
    When a module fails to import, the old code goes on, and its traceback is shown here and in the supervisor's
    log. Other keys of the configuration are not taken: which of them have changed is shown.
    """
    with attached(namespace) as segment:
        before = segment.header("registry")
        restart = ask(namespace, "reload")["restart"]
        give_up = time.monotonic() + timeout
        while segment.header("registry") == before:
            why = ask(namespace, "reload_state")["refused"]
            if not why and time.monotonic() > give_up:
                why = (
                    f"no new code within {timeout:g} s. Does a task module take longer to import? "
                    "The supervisor's log tells when it is there."
                )
            if why:
                click.echo(f"reload refused, the old code goes on: {printable(why).rstrip()}", err=True)
                sys.exit(exits.FAILED)
            time.sleep(_LOOK_EVERY_S)
    click.echo("reloaded: new workers run the new code")
    if restart:
        click.echo(f"not taken, for that needs a restart of the supervisor: {', '.join(restart)}", err=True)


@click.command()
@namespace_option
@group_argument
def pause(namespace: str, group: str) -> None:
    """Start no more jobs of a group.

    Running jobs finish; submitting goes on until the queue is full.
    """
    ask(namespace, "pause", group=known_group(namespace, group))
    click.echo(f"{group}: paused")


@click.command()
@namespace_option
@group_argument
def resume(namespace: str, group: str) -> None:
    """Start jobs of a paused group again."""
    ask(namespace, "resume", group=known_group(namespace, group))
    click.echo(f"{group}: resumed")


class _TakesNegative(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`-1` is a number, refused as such, and no option that nobody knows."""
        numbers = [arg for arg in args if arg.startswith("-") and arg[1:].isdecimal()]
        others = [arg for arg in args if arg not in numbers]
        return super().parse_args(ctx, [*others, "--", *numbers] if numbers else args)


@click.command(cls=_TakesNegative)
@namespace_option
@group_argument
@click.argument("workers", metavar="N|auto")
def scale(namespace: str, group: str, workers: str) -> None:
    """Set the number of workers of a group.

    The number holds until `shmq scale GROUP auto` lets the planner choose again.
    """
    if workers != "auto" and not (workers.isdecimal() and int(workers) <= 1000):
        raise click.BadParameter(f"{workers!r}: a number from 0 to 1000, or auto.", param_hint="N")
    wanted = None if workers == "auto" else int(workers)
    answer = ask(namespace, "scale", group=known_group(namespace, group), workers=wanted)
    count = answer.get("workers")
    plural = "" if count == 1 else "s"
    click.echo(f"{group}: {count} worker{plural}, {'chosen by the planner' if wanted is None else 'fixed'}")
