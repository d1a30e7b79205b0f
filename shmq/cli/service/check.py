"""`shmq check`: what a configuration means here, before anything is started; and the machine's litmus."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from shmq import probes
from shmq.cli import exits
from shmq.cli.options import json_option, override_namespace, with_namespace
from shmq.cli.service.toml import as_toml
from shmq.cli.text import size
from shmq.config.load import load
from shmq.config.model import Config
from shmq.errors import ConfigError, NoSpace
from shmq.memory.layout import Layout
from shmq.memory.segment import SHM, segment_name

if TYPE_CHECKING:
    from shmq.tasks.task import Task


@click.command()
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path), required=False)
@override_namespace
@json_option
@click.option("--import/--no-import", "is_importing", default=True, help="Import the task modules, as workers do.")
@click.option("--litmus", is_flag=True, help="Test whether this machine orders memory as shmq needs it.")
@click.option("--seconds", default=5.0, show_default=True, help="How long the litmus may take.")
def check(
    config: Path | None,
    namespace: str | None,
    as_json: bool,
    is_importing: bool,
    litmus: bool,
    seconds: float,
) -> None:
    """Say what a configuration means and whether it fits this machine.

    Prints every key with the value in force, the memory the segment needs, and how many tasks the modules
    declare. Nothing is started. The exit code is 0 when `shmq supervise CONFIG` would start.
    """
    if config is None and not litmus:
        raise click.UsageError("name a configuration: shmq check config.toml; or ask for --litmus.")
    if litmus:  # before anything that starts threads is imported: it forks
        _litmus(seconds)
    if config is None:
        return
    from shmq.tasks.registry import unmatched_tables

    settings = with_namespace(load(config), namespace, lambda line: click.echo(f"shmq check: {line}", err=True))
    room = _room(settings)
    problems, tasks = _import(settings, config.absolute().parent) if is_importing else ([], [])
    unmatched = unmatched_tables([t.name for t in tasks], settings.limits, settings.routes) if tasks else []
    if as_json:
        report = {
            "config": msgspec.to_builtins(settings),
            **room,
            "tasks": [t.name for t in tasks],
            "unmatched": unmatched,
        }
        click.echo(msgspec.json.encode(report | {"problems": problems}))
    else:
        click.echo(as_toml(settings))
        click.echo("\n".join(f"# {line}" for line in _in_words(room, tasks, is_importing=is_importing)))
        for line in unmatched:
            click.echo(f"shmq check: {line}", err=True)
    if problems:
        raise ConfigError([f"{config}: {problem}" for problem in problems])
    if room["missing_bytes"]:
        raise NoSpace(
            f"{room['missing_bytes']} bytes are missing for the segment.\n"
            "Lower [memory] max_producers, slots_per_producer or block_budget_bytes, or give /dev/shm more "
            "(docker run --shm-size, mount -o remount,size=...)."
        )


def _room(config: Config) -> dict[str, Any]:
    """What the segment needs and what there is; a segment of the namespace that exists counts as free."""
    from shmq.supervisor.namespace import shape_of

    needed = Layout(shape_of(config)).total_bytes
    with contextlib.suppress(FileNotFoundError):
        needed_more = needed - (SHM / segment_name(config.namespace)).stat().st_size
        return _compared(needed, needed_more)
    return _compared(needed, needed)


def _compared(needed: int, needed_more: int) -> dict[str, Any]:
    shm, cgroup = probes.shm_free_bytes(), probes.cgroup_free_bytes()
    free = shm if cgroup is None else min(shm, cgroup)
    return {
        "segment_bytes": needed,
        "shm_free_bytes": shm,
        "cgroup_free_bytes": cgroup,
        "missing_bytes": max(needed_more - free, 0),
    }


def _import(config: Config, folder: Path) -> tuple[list[str], list[Task[..., Any]]]:
    """(problems, tasks) of the task modules. What they print at import goes to stderr."""
    from shmq.tasks.registry import load as load_tasks
    from shmq.tasks.registry import refuse_unknown_groups, why_not_loaded

    tasks: list[Task[..., Any]] = []
    try:
        with contextlib.redirect_stdout(sys.stderr):
            tasks += load_tasks(list(config.tasks), folder).values()
        refuse_unknown_groups(tasks, config.groups)
    except ConfigError as error:
        return error.problems, tasks
    except Exception as error:
        return [why_not_loaded(error)], tasks
    return [], tasks


def _in_words(room: dict[str, Any], tasks: list[Task[..., Any]], *, is_importing: bool) -> list[str]:
    cgroup = room["cgroup_free_bytes"]
    lines = [
        f"segment: {size(room['segment_bytes'])}; /dev/shm has {size(room['shm_free_bytes'])} free"
        + (f", the memory cgroup {size(cgroup)}" if cgroup is not None else "")
    ]
    if is_importing:
        groups = Counter(task.settings.group for task in tasks)
        counts = ", ".join(f"{group} {count}" for group, count in sorted(groups.items()))
        lines.append(f"tasks: {len(tasks)}" + (f" ({counts})" if tasks else ""))
    if platform.machine() != "x86_64":
        lines.append(f"{platform.machine()}: see whether shmq check --litmus passes before you rely on it")
    return lines


def _litmus(seconds: float) -> None:
    """Run each litmus and print what was seen; exit code 1 when an order that shmq needs is not kept."""
    from shmq.observe.litmus import LITMUSES, run

    if probes.cpu_count() < 2:
        click.echo("litmus: this process may use one processor only, where every order holds; nothing was tested")
        return
    broken = []
    for litmus in LITMUSES:
        outcome = run(litmus, seconds=seconds / len(LITMUSES))
        verdict = "as it must be" if not outcome.forbidden else "BROKEN"
        if not litmus.must_hold:
            verdict = "so the test bites" if outcome.forbidden else "so this run proves little: use --seconds 60"
        elif outcome.forbidden:
            broken.append(litmus.title)
        click.echo(f"{litmus.title}: {outcome.forbidden} of {outcome.rounds} rounds out of order, {verdict}")
    if broken:
        click.echo(
            f"shmq is not safe on this machine ({platform.machine()}): {' and '.join(broken)} fails.\n"
            "Jobs could be lost or wait although a worker is idle. Please report it with the lines above.",
            err=True,
        )
        sys.exit(exits.FAILED)
