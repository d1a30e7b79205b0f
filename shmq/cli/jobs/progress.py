"""What `shmq map` shows on stderr: a bar when a person looks at it, and one line per failure."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

import click

_EVERY_S = 0.1


class Progress(Protocol):
    """A place for messages and for how far the work is."""

    def say(self, text: str) -> None:
        """Show a message on a line of its own."""

    def update(self, ended: int, failed: int, expected: Callable[[], int | None]) -> None:
        """So many lines have ended, so many of them failed; `expected` tells how many there will be."""


def progress() -> AbstractContextManager[Progress]:
    """A bar if stderr is a terminal and stdout is not (results on the same terminal show the progress)."""
    return _Bar() if sys.stderr.isatty() and not sys.stdout.isatty() else nullcontext(_Plain())


class _Plain:
    def say(self, text: str) -> None:
        click.echo(text, err=True)

    def update(self, ended: int, failed: int, expected: Callable[[], int | None]) -> None:
        """Nobody looks."""


class _Bar(AbstractContextManager["_Bar"]):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        self._bar = Rich(
            BarColumn(),
            TextColumn("{task.completed:,} lines{task.fields[rate]}{task.fields[failures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, rate="", failures="")
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, ended: int, failed: int, expected: Callable[[], int | None]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        fields: dict[str, Any] = {
            "rate": f", {ended / max(now - self._began, 1e-9):,.0f}/s",
            "failures": f", {failed:,} failed" if failed else "",
        }
        self._bar.update(self._task, completed=ended, total=expected(), **fields)
