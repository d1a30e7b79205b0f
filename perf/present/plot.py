"""Runs as pictures, PNG and SVG: throughput as bars, latencies as tails on a log axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perf.present.table import quantity, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perf.results import Entry, Outcome, Run

INK, QUIET, GRID = "#1a1a1a", "#6b6b6b", "#e3e3e3"
COLOURS = {"subject": "#1f6feb", "floor": "#8a8f98", "peer": "#d9a441"}
_MOST_CURVES = 6


def draw(run: Run, folder: Path) -> list[Path]:
    """Writes a bar chart per scenario with a rate, a tail chart per scenario with latencies; their files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for outcome in run.outcomes for path in _draw(outcome, folder)]


def _draw(outcome: Outcome, folder: Path) -> Iterator[Path]:
    rated = [entry for entry in outcome.entries if "per_s" in entry.metrics]
    timed = [entry for entry in outcome.entries if entry.samples]
    if rated:
        yield from _save(_bars(outcome, rated), folder / f"{outcome.name}-throughput")
    if timed:
        yield from _save(_tails(outcome, timed), folder / f"{outcome.name}-latency")


def _bars(outcome: Outcome, entries: list[Entry]) -> Any:
    """Jobs per second on a log axis: bars of 30/s and of 300,000/s must both be readable."""
    figure, axes = _canvas(0.36 * len(entries) + 1.3)
    entries = sorted(entries, key=lambda entry: entry.spread("per_s").median)
    rates = [entry.spread("per_s") for entry in entries]
    least = min(rate.median for rate in rates) / 3
    for place, (entry, rate) in enumerate(zip(entries, rates, strict=True)):
        axes.barh(place, rate.median - least, left=least, height=0.62, color=COLOURS[entry.role])
        axes.plot([rate.low, rate.high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
        weight = "bold" if entry.role == "subject" else "normal"
        axes.annotate(
            quantity(rate.median, "per_s"),
            (max(rate.median, rate.high), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
            fontweight=weight,
        )
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(least, max(rate.high for rate in rates) * 6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_tick_params(which="minor", length=0)
    axes.set_xlabel("jobs per second (log), median; line: middle half of the rounds", fontsize=8, color=QUIET)
    _title(axes, outcome.title)
    return figure


def _tails(outcome: Outcome, entries: list[Entry]) -> Any:
    """Share of jobs slower than x, both axes log: the tail, where queues differ, takes most of the room."""
    figure, axes = _canvas(3.6)
    chosen = sorted(
        entries,
        key=lambda entry: (entry.role != "subject", entry.role != "floor", entry.spread("p50_s").median),
    )
    for number, entry in enumerate(chosen[:_MOST_CURVES]):
        count = len(entry.samples)
        slower = [max(1 - place / (count - 1), 0.5 / count) if count > 1 else 1.0 for place in range(count)]
        p50, p99 = (seconds(entry.spread(name).median) for name in ("p50_s", "p99_s"))
        label = f"{entry.name} · p50 {p50}, p99 {p99}"
        lines = {"subject": "-", "floor": "--", "peer": ("-", ":", "-.")[number % 3]}
        axes.plot(entry.samples, slower, lines[entry.role], color=COLOURS[entry.role], label=label, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks([1, 0.5, 0.1, 0.01, 0.001], ["all", "p50", "p90", "p99", "p99.9"], fontsize=8)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.legend(fontsize=7, frameon=False, loc="upper right")
    axes.set_xlabel("latency (log)", fontsize=8, color=QUIET)
    axes.set_ylabel("jobs that took longer", fontsize=8, color=QUIET)
    _title(axes, outcome.title)
    return figure


def _canvas(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(7.6, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=INK, fontweight="bold")


def _save(figure: Any, stem: Path) -> Iterator[Path]:
    for suffix in (".png", ".svg"):
        path = stem.with_suffix(suffix)
        figure.savefig(path, dpi=150)
        yield path
