"""`shmq submit TASK [ARGS...]`: one job."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from shmq.cli import exits
from shmq.cli.jobs.values import Arguments, Malformed, json_value, to_json, words_as
from shmq.cli.jobs.waiting import end_as_by_ctrl_c, explainer
from shmq.cli.options import connected, namespace_option, priority_option, timeout_option
from shmq.cli.text import printable
from shmq.errors import BadArguments, JobError

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job

_QUIET_S = 1.0
_SECONDS = click.FloatRange(min=0)


@click.command()
@namespace_option
@click.argument("task")
@click.argument("args", nargs=-1)
@click.option("--json", "is_json", is_flag=True, help="ARGS and the values of -k are JSON, not plain text.")
@click.option("-k", "--keyword", "keywords", multiple=True, metavar="NAME=VALUE", help="An argument by name.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Show the result, or only the job's id.")
@click.option("--patience", type=_SECONDS, metavar="SECONDS", help="How long to wait for the result.")
@priority_option
@timeout_option
@click.option("--delay", type=_SECONDS, metavar="SECONDS", help="Do not start before so many seconds.")
@click.option("--expires", type=_SECONDS, metavar="SECONDS", help="Do not start after so many seconds.")
@click.option("--retries", type=click.IntRange(0, 254), help="Further attempts when it fails.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of a failure.")
def submit(
    namespace: str,
    task: str,
    args: tuple[str, ...],
    is_json: bool,
    keywords: tuple[str, ...],
    wait: bool,
    patience: float | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Submit one job and show its result.

    ARGS are text; where the task's annotation is int, float or bool, a number or a truth value. With --json they
    are JSON, for all else.

    The result is printed as JSON. Ctrl-C cancels the job if it has not started. With --no-wait nobody reads the
    result; what fails for good is found by `shmq dead list`.

    \b
        shmq submit workers.filesystem.hash_file README.md
        shmq submit workers.computation.count_primes 0 1000000
        shmq submit --json workers.memory.csv_statistics '"sales.csv"' '["price", "tax"]'
    """  # noqa: D301 - click wants the backspace itself
    values: Arguments = tuple(_value(arg, is_json=is_json) for arg in args), {}
    values[1].update((name, _value(text, is_json=is_json)) for name, text in map(_split, keywords))
    options = {name: value for name, value in options.items() if value is not None}
    with connected(namespace) as client:
        wanted = client._registry.task(task).options(**options, forget=not wait)
        if not is_json:
            values = _as_annotated(client.registry()[task].words, values)
        end_as_by_ctrl_c()
        job = client.submit_task(wanted, *values)
        if not wait:
            click.echo(job.id)
            return
        try:
            result = _result(client, job, wanted.settings.group, patience)
        except KeyboardInterrupt:
            job.cancel()
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and not job.done():
                click.echo(
                    f"shmq submit: no result within {patience:g} s; the job goes on without a reader.\n"
                    f"{printable(str(error).partition(chr(10))[2])}".rstrip(),
                    err=True,
                )
            else:
                _report(error, is_json=is_json, verbose=verbose)
            sys.exit(exits.FAILED)
        click.echo(_shown(result))


def _result(client: Client, job: Job[Any], group: str, patience: float | None) -> Any:
    """The result; why it does not come is told meanwhile."""
    if patience is not None:
        return job.result(patience)
    if not client.wait_any([job], _QUIET_S):
        explain = explainer(client, "submit", group, lambda text: click.echo(printable(text), err=True))
        while not client.wait_any([job], _QUIET_S):
            explain()
    return job.result()


def _split(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise click.BadParameter(f"{text!r}: NAME=VALUE is expected.", param_hint="-k")
    return name, value


def _value(text: str, *, is_json: bool) -> Any:
    if not is_json:
        return text
    try:
        return json_value(text)
    except Malformed as error:
        raise click.BadParameter(f"{text!r} is {error}. Text in JSON needs quotes: '\"text\"'.") from None


def _as_annotated(words: list[tuple[str, str]], values: Arguments) -> Arguments:
    try:
        return words_as(words)(*values)
    except Malformed as error:
        raise click.UsageError(f"{error}.") from None


def _report(error: Exception, *, is_json: bool, verbose: bool) -> None:
    if verbose and error.__cause__ is not None:
        click.echo(printable(str(error.__cause__)), err=True)
    kind = type(error).__name__
    click.echo(f"shmq submit: {'' if isinstance(error, JobError) else f'{kind}: '}{printable(str(error))}", err=True)
    if isinstance(error, BadArguments) and "got `str`" in str(error) and not is_json:
        click.echo("ARGS were taken as plain text; what is neither text nor a number needs --json.", err=True)


def _shown(result: Any) -> bytes:
    try:
        return to_json(result)
    except (TypeError, NotImplementedError, ValueError, RecursionError) as error:
        raise click.ClickException(f"the job is done, but its result cannot be shown: {error}") from None
