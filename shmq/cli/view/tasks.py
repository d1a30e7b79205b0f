"""`shmq tasks`: what is registered."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click
import msgspec

from shmq.cli.options import attached, json_option, namespace_option
from shmq.cli.text import NOTHING, printable, seconds, table

if TYPE_CHECKING:
    from shmq.tasks.registry import TaskInfo


@click.command()
@namespace_option
@click.argument("pattern", default="*")
@click.option("--explain", is_flag=True, help="show to which group jobs go, and why: rule, measurements, declaration")
@json_option
def tasks(namespace: str, pattern: str, explain: bool, as_json: bool) -> None:
    """Show the registered tasks with signature and options.

    PATTERN may hold * and ?: shmq tasks 'workers.network.*'
    """
    from shmq.cli.view.explain import listing, ways
    from shmq.tasks.registry import read

    with attached(namespace) as segment:
        infos = [info for name, info in sorted(read(segment.state_dir).items()) if fnmatchcase(name, pattern)]
        explained = [way for info in infos for way in ways(segment, info)] if explain else []
    if as_json and explain:
        click.echo(msgspec.json.encode(explained))
    elif explained:
        click.echo(listing(explained))
    elif as_json:
        click.echo(msgspec.json.encode(infos))
    elif infos:
        click.echo(_listing(infos))
    else:
        click.echo(f"no task matches {pattern!r}" if pattern != "*" else "no task is registered", err=True)


def _listing(infos: list[TaskInfo]) -> str:
    head = ["task", "group", ">priority", ">retries", ">timeout", "idempotent"]
    rows = []
    for info in infos:
        options = info.options
        retries, timeout = options.get("retries"), options.get("timeout")
        rows.append([
            info.name,
            str(options.get("group")),
            str(options.get("priority")),
            NOTHING if retries is None else str(retries),
            seconds(timeout),
            "yes" if options.get("idempotent") else NOTHING,
        ])  # fmt: skip
    details = [
        f"\n{info.name}{printable(info.signature)}" + (f"\n    {printable(info.doc)}" if info.doc else "")
        for info in infos
    ]
    return "\n".join([table(head, rows), *details])
