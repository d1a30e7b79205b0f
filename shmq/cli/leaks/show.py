"""Findings of a run, on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shmq.memcheck.report import Findings


def show(findings: Findings, report: Path) -> None:
    """Table, suspects, notes, and the answer last."""
    from rich.console import Console
    from rich.table import Table

    from shmq.memcheck.report import by_kind, terminal_table

    headings, rows = terminal_table(findings.verdicts)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in {"process", "quantity", "verdict"} else "right")
    for row in rows:
        style = {"leak": "red", "no leak": "green"}.get(row[-1], "yellow")
        table.add_row(*row[:-1], f"[{style}]{row[-1]}[/]")
    # a terminal has a width, a file does not: its lines must stay whole
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)
    click.echo()
    for kind, answer in by_kind(findings.verdicts).items():
        click.echo(f"{kind}: {answer}")
    for title, lines in (("Suspects", findings.culprits), ("Notes", findings.notes)):
        if lines:
            click.echo(f"\n{title}:")
            for line in lines:
                click.echo(f"  {line}")
    click.echo(f"\nreport: {report}\nverdict: {findings.answer}")
