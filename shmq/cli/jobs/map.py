"""`shmq map TASK`: what `xargs -P` is used for, with warm workers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import click

from shmq.cli import exits
from shmq.cli.jobs.lines import Lines
from shmq.cli.jobs.progress import Progress, progress
from shmq.cli.jobs.sink import Sink
from shmq.cli.jobs.values import Arguments, json_arguments, text_argument, to_json, words_as
from shmq.cli.jobs.waiting import end_as_by_ctrl_c, explainer
from shmq.cli.jobs.window import Answer, Window
from shmq.cli.options import connected, namespace_option, priority_option, timeout_option
from shmq.cli.text import printable


def _chunk_size(_context: click.Context, _parameter: click.Parameter, value: str) -> int | str:
    if value == "auto":
        return "auto"
    if not value.isdecimal() or not 1 <= int(value) <= 100_000:
        raise click.BadParameter(f"{value!r}: a number from 1 to 100000, or auto.")
    return int(value)


@click.command("map")
@namespace_option
@click.argument("task")
@click.option("--json", "is_json", is_flag=True, help="Each line is a JSON array or object of arguments.")
@click.option("-0", "--null", is_flag=True, help="Lines end with NUL, as `find -print0` writes them.")
@click.option("--unordered", is_flag=True, help="Show results as they come.")
@click.option(
    "--chunk-size",
    callback=_chunk_size,
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Lines per job.",
)
@priority_option
@timeout_option
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of each failure.")
def map_lines(
    namespace: str,
    task: str,
    is_json: bool,
    null: bool,
    unordered: bool,
    chunk_size: int | str,
    verbose: bool,
    **options: Any,
) -> None:
    """Run a task for each line of the input.

    A line is the task's one argument, without its end; it becomes a number or a truth value where the task's
    annotation is int, float or bool. With --json it holds a JSON array (the arguments), an
    object (arguments by name) or a single value. Results come as JSON lines in the order of the input; a line
    that fails has none: it is reported on stderr, and the exit code is 1.

    \b
        find "$PWD" -name '*.py' | shmq map workers.filesystem.hash_file > hashes.jsonl
        printf '[%d, %d]\\n' 0 1000 1000 2000 | shmq map --json workers.computation.count_primes
    """  # noqa: D301 - click wants the backspace itself
    with connected(namespace) as client, progress() as shown:
        end_as_by_ctrl_c()
        wanted = client._registry.task(task).options(**{k: v for k, v in options.items() if v is not None})
        parse = _json_line if is_json else _text_line(words_as(client.registry()[task].words))
        lines = Lines(sys.stdin.fileno(), b"\0" if null else b"\n")
        window = Window(
            client, wanted, lines, parse,
            ordered=not unordered, chunk_size=chunk_size,
            explain=explainer(client, "map", wanted.settings.group, shown.say),
        )  # fmt: skip
        ended, failed = _show(window, lines, shown, verbose=verbose)
    if failed:
        click.echo(f"shmq map: {failed} of {ended} lines failed", err=True)
        sys.exit(exits.FAILED)


def _text_line(convert: Callable[[tuple[Any, ...], dict[str, Any]], Arguments]) -> Callable[[bytes], Arguments]:
    return lambda line: convert(*text_argument(line))


def _json_line(line: bytes) -> Arguments | None:
    """Arguments of a line; blank lines are common in such files and mean nothing."""
    return json_arguments(line) if line.strip() else None


def _show(window: Window, lines: Lines, shown: Progress, *, verbose: bool) -> tuple[int, int]:
    """Write results and failures until the input ends; how many ended, and how many of them failed."""
    ended = failed = 0
    with closing(window.answers()) as answers, Sink(sys.stdout.fileno()) as sink:
        for answer in answers:
            ended += 1
            if answer.ok:
                try:
                    sink.write(to_json(answer.value))
                except (TypeError, NotImplementedError, ValueError, RecursionError) as error:
                    failed += 1
                    shown.say(_failure(Answer(answer.line, False, error), verbose=False))
            else:
                failed += 1
                shown.say(_failure(answer, verbose=verbose))
            shown.update(ended, failed, lines.expected)
    return ended, failed


def _failure(answer: Answer, *, verbose: bool) -> str:
    """One line, or all that is known."""
    error = answer.value
    text = printable(answer.line.text.decode(errors="backslashreplace"), 120)
    lines = printable(str(error)).splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
    more = [*lines[1:], printable(str(error.__cause__ or ""))] if verbose else []
    return "\n".join([f"line {answer.line.number} ({text}): {reason}", *filter(None, more)])
