"""`shmq dead`: jobs that failed for good."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from shmq.cli import exits
from shmq.cli.jobs.values import to_json
from shmq.cli.options import connected, json_option, namespace_option, state_dir_of
from shmq.cli.text import printable, seconds, size, table
from shmq.errors import ShmqError, SubmitError
from shmq.wire.header import MANY, VARIADIC

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.transport.dead import DeadLetter, DeadLetters

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_REFERENCE, _TEXT = 1, 3  # wire.codec: an array that lay in a block, which is gone; the name of a file


def _duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|)", value)
    if not found:
        raise click.BadParameter(f"{value!r}: a number with s, min, h or d, such as 90min.")
    return float(found[1]) * _UNITS[found[2]]


def _filters(command: F) -> F:
    """The options that choose letters."""
    for option in (
        click.option("--since", "since_s", callback=_duration, metavar="TIME", help="Of the last 30min, 12h, 7d."),
        click.option("--group", help="Of this group."),
        click.option("--task", metavar="PATTERN", help="Of tasks that match, such as 'workers.network.*'."),
    ):
        command = option(command)
    return command


@click.group()
def dead() -> None:
    """Look at jobs that failed for good; run them again or drop them."""


@dead.command("list")
@namespace_option
@_filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@json_option
def list_letters(namespace: str, as_json: bool, limit: int, **filters: Any) -> None:
    """Show dead jobs, the newest first."""
    found = _letters(namespace).list(**filters, limit=limit + 1)
    letters = found[:limit]
    if len(found) > limit:
        click.echo(f"the newest {limit}; there are more: --limit", err=True)
    if as_json:
        for letter in letters:
            click.echo(to_json(_plain(letter)))
    elif letters:
        rows = [
            [
                letter.job,
                seconds(time.time() - letter.died_at),
                letter.task,
                letter.group,
                f"{letter.failures} failed, {letter.crashes} crashed",
                printable(f"{letter.error}: {letter.message}".split("\n", 1)[0], 80),
            ]
            for letter in letters
        ]
        click.echo(table(["job", ">ago", "task", "group", "attempts", "error"], rows))
    else:
        click.echo("no dead letters", err=True)


@dead.command()
@namespace_option
@click.argument("job")
@json_option
def show(namespace: str, job: str, as_json: bool) -> None:
    """Show all that is known of one dead job."""
    letter = _letter(_letters(namespace), job)
    if as_json:
        click.echo(to_json(_plain(letter)))
        return
    died = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.died_at))
    facts = {
        "job": letter.job,
        "task": letter.task,
        "group": letter.group,
        "died": f"{died} ({seconds(time.time() - letter.died_at)} ago)",
        "attempts": f"{letter.failures} failed, {letter.crashes} crashed",
        "worker": letter.how,
        "peak memory": size(letter.peak_bytes) if letter.peak_bytes else "",
        "arguments": printable(to_json(_arguments(letter)).decode(), 2000),
        "error": printable(f"{letter.error}: {letter.message}"),
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name:12} {value}")
    if letter.traceback:
        click.echo(f"\n{printable(letter.traceback)}")


@dead.command()
@namespace_option
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@_filters
@click.option("--all", "is_all", is_flag=True, help="All that pass the filters.")
def retry(namespace: str, jobs: tuple[str, ...], is_all: bool, **filters: Any) -> None:
    """Submit dead jobs again, with all their attempts."""
    letters = _letters(namespace)
    chosen = _chosen(letters, jobs, is_all=is_all, filters=filters)
    failed = 0
    with connected(namespace) as client:
        for letter in chosen:
            try:
                _submit_again(client, letter)
            except ShmqError as error:
                failed += 1
                click.echo(f"{letter.job} {letter.task}: {printable(str(error))}", err=True)
            else:
                letters.drop(letter.job)
    click.echo(f"{len(chosen) - failed} submitted again" + (f", {failed} could not be" if failed else ""))
    if failed:
        sys.exit(exits.FAILED)


@dead.command()
@namespace_option
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@_filters
@click.option("--all", "is_all", is_flag=True, help="All that pass the filters.")
def drop(namespace: str, jobs: tuple[str, ...], is_all: bool, **filters: Any) -> None:
    """Forget dead jobs."""
    letters = _letters(namespace)
    _check_choice(jobs, is_all=is_all, filters=filters)
    dropped = [letters.drop(_letter(letters, job).job) for job in jobs] or [letters.drop(**filters)]
    click.echo(f"{sum(dropped)} dropped")


def _letters(namespace: str) -> DeadLetters:
    from shmq.transport.dead import DeadLetters

    return DeadLetters(state_dir_of(namespace))


def _letter(letters: DeadLetters, job: str) -> DeadLetter:
    found = letters.show(job)
    if found is None:
        raise click.UsageError(f"there is no dead letter of job {job!r}. `shmq dead list` shows all.")
    return found


def _check_choice(jobs: tuple[str, ...], *, is_all: bool, filters: dict[str, Any]) -> None:
    has_filter = any(value is not None for value in filters.values())
    if bool(jobs) == (is_all or has_filter):
        raise click.UsageError("name jobs, or choose them by --task, --group, --since or --all.")


def _chosen(letters: DeadLetters, jobs: tuple[str, ...], *, is_all: bool, filters: dict[str, Any]) -> list[DeadLetter]:
    _check_choice(jobs, is_all=is_all, filters=filters)
    if jobs:
        return [_letter(letters, job) for job in jobs]
    return letters.list(**filters, limit=1_000_000_000)


def _submit_again(client: Client, letter: DeadLetter) -> None:
    """Submit what the letter holds; nobody reads the result. Raises SubmitError."""
    arguments = _arguments(letter)
    if arguments is None or _has_reference(arguments):
        raise SubmitError("its arguments were not kept (they lay in a block, which is in use by others now)")
    task = client._registry.task(letter.task).options(forget=True)
    if letter.kind == MANY:
        for call in arguments:
            client.submit_task(task, tuple(call))
    elif letter.nargs == VARIADIC:
        client.submit_task(task, tuple(arguments[0]), arguments[1])
    else:
        client.submit_task(task, tuple(arguments))


def _arguments(letter: DeadLetter) -> Any:
    """The job's message as plain values; None when it was not kept or cannot be read."""
    try:
        return msgspec.msgpack.decode(letter.args, ext_hook=_extension) if letter.args else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _extension(code: int, data: memoryview) -> Any:
    return os.fsdecode(bytes(data)) if code == _TEXT else msgspec.msgpack.Ext(code, bytes(data))


def _has_reference(value: Any) -> bool:
    if isinstance(value, msgspec.msgpack.Ext):
        return value.code == _REFERENCE
    if isinstance(value, dict):
        return any(map(_has_reference, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_reference, value))


def _plain(letter: DeadLetter) -> dict[str, Any]:
    """The letter for programs: arguments decoded."""
    facts: dict[str, Any] = msgspec.structs.asdict(letter)
    facts["args"] = _arguments(letter)
    return facts
