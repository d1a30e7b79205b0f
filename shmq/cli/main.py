"""`shmq`: finds the command, runs it, and turns what it raises into a message and an exit code.

A command's module is imported when the command runs, so that `shmq --help` and `shmq supervise` start
without numpy and rich. Nowhere else do errors become exit codes.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from typing import Any

import click

import shmq
from shmq import kernel
from shmq.cli import exits
from shmq.cli.text import printable
from shmq.errors import ShmqError

# section of the help: command: (where it is, what it does in one line; the command's own help begins with it)
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run the supervisor": {
        "supervise": ("service.supervise:supervise", "Run the supervisor in the foreground."),
        "check": ("service.check:check", "Say what a configuration means and whether it fits this machine."),
        "stop": ("service.control:stop", "Stop the supervisor; jobs that wait stay accepted."),
        "drain": ("service.control:drain", "Run what was submitted, then stop the supervisor."),
        "reload": ("service.control:reload", "Take new task code without losing a job."),
    },
    "Submit jobs": {
        "map": ("jobs.map:map_lines", "Run a task for each line of the input."),
        "submit": ("jobs.submit:submit", "Submit one job and show its result."),
        "dead": ("jobs.dead:dead", "Look at jobs that failed for good; run them again or drop them."),
    },
    "Look and steer": {
        "status": ("view.status:status", "Show groups, workers, producers and memory."),
        "tasks": ("view.tasks:tasks", "Show the registered tasks with signature and options."),
        "forecast": ("forecast.command:forecast", "Compare forecast and load; try the scaling on recorded counts."),
        "pause": ("service.control:pause", "Start no more jobs of a group."),
        "resume": ("service.control:resume", "Start jobs of a paused group again."),
        "scale": ("service.control:scale", "Set the number of workers of a group."),
        "limit": ("service.limit:limit", "Show or change rate limit and circuit breaker."),
    },
    "Find leaks": {
        "soak": ("leaks.soak:soak", "Run a day of load in minutes and say what leaks."),
        "leaks": ("leaks.leaks:leaks", "Look for the lines and tasks behind growing memory."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
_STDOUT = 1


ELSEWHERE = {"top": "status --watch", "ps": "status", "start": "supervise", "run": "supervise or submit"}
"""What other tools call a command."""


class Commands(click.Group):
    """The commands of SECTIONS, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(f"shmq.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; a misspelt one gets the nearest names."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = [ELSEWHERE[args[0]]] if args[0] in ELSEWHERE else difflib.get_close_matches(args[0], COMMANDS, n=2)
            hint = f"Did you mean {' or '.join(close)}?" if close else "`shmq --help` lists all."
            ctx.fail(f"there is no command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - likewise
        formatter: click.HelpFormatter,
    ) -> None:
        """The commands by section, without importing any."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises ends here."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is caught
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except ShmqError as error:
            click.echo(f"shmq: {printable(str(error))}", err=True)
            ctx.exit(exits.code_of(error))
        except KeyboardInterrupt as error:
            ctx.exit(exits.code_of(error))
        except BrokenPipeError:
            with open(os.devnull, "w") as nobody:  # for what is left in the buffer when the interpreter ends
                os.dup2(nobody.fileno(), _STDOUT)
            ctx.exit(exits.CLOSED_PIPE)
        except Exception:
            click.echo(f"{traceback.format_exc()}shmq: this is a bug; please report the lines above", err=True)
            ctx.exit(exits.BUG)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(shmq.__version__, prog_name="shmq")
def cli() -> None:
    """A work queue for one host: many producers, pools of workers, shared memory in between."""


def main() -> None:
    """Entry of the `shmq` command."""
    kernel.open_standard_streams()
    cli(prog_name="shmq")
