"""Runs and comparisons as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from perf.verdict import mark

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perf.results import Check, Entry, Outcome, Run, Spread
    from perf.verdict import Comparison

_MARKS = {
    "aim": ("✔ aim", "bold green"),
    "pass": ("✔", "green"),
    "fail": ("✘", "bold red"),
    "skipped": ("–", "dim"),
}
_CHANGES = {"regression": "bold red", "better": "green", "same": "dim", "new": "cyan", "gone": "yellow"}


def targets(run: Run) -> Table:
    """Every target: measured ratio beside 'at least' and 'aim'."""
    table = Table(title="measured against asked (median, middle half of the rounds)", title_justify="left")
    for column in ("what", "beside", "measured", "at least", "aim", ""):
        table.add_column(column, justify="right" if column in {"measured", "at least", "aim"} else "left")
    for outcome in run.outcomes:
        for check in outcome.checks:
            words, style = _MARKS[mark(check)]
            table.add_row(
                check.label,
                check.against or "–",
                ratio(check),
                limit(check, check.at_least),
                limit(check, check.aim),
                Text(words, style),
            )
        table.add_section()
    return table


def measured(outcome: Outcome) -> Table:
    """What each contestant of one scenario showed, fastest first, and who is missing."""
    table = Table(title=outcome.title, title_justify="left")
    names = list(dict.fromkeys(name for entry in outcome.entries for name in entry.metrics))
    table.add_column("contestant")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("jobs", justify="right", style="dim")
    for entry in outcome.entries:
        style = {"subject": "bold", "floor": "cyan", "peer": ""}[entry.role]
        table.add_row(Text(entry.name, style), *(_cell(entry, name) for name in names), f"{entry.jobs:,}")
    for name, reason in outcome.skipped.items():
        table.add_row(Text(f"{name}: {reason.splitlines()[0]}", "dim"))
    return table


def comparison(found: Iterable[Comparison]) -> Table:
    """This run against an earlier one."""
    table = Table(title="against the earlier run (factor above 1: better)", title_justify="left")
    for column in ("what", "beside", "before", "now", "factor", "change"):
        table.add_column(column)
    for item in found:
        before = _value(item.before.median, item.check) if item.before else "–"
        change = Text(item.change, _CHANGES[item.change])
        table.add_row(
            item.check.label,
            item.check.against or "–",
            before,
            ratio(item.check),
            "–" if item.change in {"new", "gone"} else f"{item.factor:.2f}",
            change,
        )
    return table


def machine(run: Run) -> str:
    """One line of where and when."""
    on = run.machine
    return (
        f"{on.cores} × {on.cpu}, Linux {on.kernel}, {on.python}; load before {on.load_before}, "
        f"taken by the host {on.steal:.1%}; yardstick {run.yardstick_per_s:,.0f}/s; {run.started}"
    )


def ratio(check: Check) -> str:
    if check.ratio is None:
        return (check.error or f"skipped: {check.skipped}").splitlines()[0][:60]
    spread: Spread = check.ratio
    return f"{_value(spread.median, check)} ({_value(spread.low, check)}…{_value(spread.high, check)})"


def limit(check: Check, value: float) -> str:
    return f"{'≥' if check.better == 'higher' else '≤'} {_value(value, check)}"


def quantity(value: float, metric: str) -> str:
    """A figure with the unit that its metric's name ends in."""
    if metric.endswith("per_s"):
        return f"{value:,.0f}/s"
    if metric.endswith("_s"):
        return seconds(value)
    if metric.endswith("_bytes"):
        return f"{value / (1 << 20):.2f} MiB"
    if metric.endswith("_share") or metric.startswith("cpu "):
        return f"{value:.2%}"
    return f"{value:,.3g}"


def seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def _value(value: float, check: Check) -> str:
    if check.unit == "s":
        return seconds(value)
    if check.unit == "bytes":
        return f"{value / (1 << 20):.2f} MiB"
    if check.unit == "core":
        return f"{value:.2%}"
    return f"{value:.3g}{check.unit if check.unit == '×' else ' ' + check.unit}"


def _cell(entry: Entry, name: str) -> str:
    if name not in entry.metrics:
        return ""
    spread = entry.spread(name)
    return f"{quantity(spread.median, name)} ±{spread.relative:.0%}"
