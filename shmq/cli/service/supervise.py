"""`shmq supervise CONFIG`: the process tree, in the foreground."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
from msgspec.structs import replace

from shmq.cli.options import config_argument, override_namespace, with_namespace


@click.command()
@config_argument
@override_namespace
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Its own lines on stderr.")
@click.option(
    "--task-output",
    metavar="log|inherit|FILE",
    help="Where what tasks print goes: the log, this terminal as it is, or a file.",
)
@click.option("--grace-s", type=click.FloatRange(min=0), metavar="SECONDS", help="From SIGTERM to the kill.")
def supervise(
    config: Path,
    namespace: str | None,
    log_format: str | None,
    task_output: str | None,
    grace_s: float | None,
) -> None:
    """Run the supervisor in the foreground.

    It starts the workers of every group in CONFIG and keeps them running. SIGTERM or Ctrl-C lets running jobs
    finish within the grace time, a second one kills; SIGHUP (or `shmq reload`) takes new task code. Options
    win over the same keys of CONFIG.
    """
    from shmq.config.load import load
    from shmq.supervisor.log import configure
    from shmq.supervisor.main import supervise as run

    settings = load(config)
    configure(log_format or settings.supervisor.log_format)
    settings = with_namespace(settings, namespace, logging.getLogger("shmq.supervisor").warning)
    if grace_s is not None:
        settings = replace(settings, supervisor=replace(settings.supervisor, grace_s=grace_s))
    sys.exit(
        run(
            settings,
            config,
            log_format=log_format or settings.supervisor.log_format,
            task_output=task_output or settings.supervisor.task_output,
        )
    )
