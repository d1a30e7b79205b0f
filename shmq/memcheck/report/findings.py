"""What a run's folder says: verdicts, suspected lines, tasks; as plain data for the page, the terminal and
result.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shmq.errors import TracingError
from shmq.memcheck.attribution import Growth, load_growth
from shmq.memcheck.recording import TRACES, Run
from shmq.memcheck.slope import Slope
from shmq.memcheck.traces import Site, TraceFile, flame_graph, load_sources, sites, trace_files
from shmq.memcheck.tracing import file_stem
from shmq.memcheck.verdict import Verdict, judge_all, overall

MOST_SITES = 10
MOST_FLAME_GRAPHS = 3  # each takes seconds and megabytes


@dataclass
class Findings:
    """Everything that the report shows. `sites` and `flame_graphs` by process; `notes` are sentences for the
    reader.
    """

    run: Run
    verdicts: list[Verdict]
    growth: list[Growth] = field(default_factory=list)
    sites: dict[str, list[Site]] = field(default_factory=dict)
    flame_graphs: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def answer(self) -> str:
        """The answer for the whole run."""
        return overall(self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 only if there is surely no leak."""
        return 0 if self.answer == "no leak" else 1

    @property
    def culprits(self) -> list[str]:
        """One sentence per suspected line, gravest first; empty without a leak."""
        if not any(v.is_leak for v in self.verdicts):
            return []
        named = [
            f"{site.file}:{site.line} in {site.function}, task {site.task or 'unknown'}: "
            f"{with_unit(site.grown_bytes, 'bytes')} more in half a trace ({process})"
            for process, found in self.sites.items()
            for site in found[:1]
        ]
        for growth in self.growth:
            if growth.suspect_units:
                named += [
                    f"{file}:{line} in {function}, task {growth.task}: about {left:,.1f} {unit} left by each job"
                    for (file, line, function), unit, left in growth.lines()[:2]
                ]
        return named


def evaluate(run: Run, *, traces: str = "suspects", flame_graphs: bool = True) -> Findings:
    """Judge every series of a run and look for the lines behind what leaks.

    Args:
        run: from `load_run`.
        traces: whose memray files to evaluate: "suspects", "all" or "none".
        flame_graphs: have memray draw them too, of at most `MOST_FLAME_GRAPHS` processes.
    """
    folder = run.folder / TRACES
    found = Findings(run, judge_all(run.series, acceleration=run.acceleration), load_growth(folder))
    if run.damaged_lines:
        found.notes.append(f"{run.damaged_lines} damaged lines of readings were left out.")
    if run.about.get("recording_problem"):
        found.notes.append(f"{run.about['recording_problem']}.")
    if traces != "none":
        suspects = None if traces == "all" else [v for v in found.verdicts if v.is_leak]
        _evaluate_traces(found, folder, suspects, draw=flame_graphs)
    return found


def by_kind(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """The answer for each kind of process: the worst of its rows."""
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.kind, []).append(verdict)
    return {kind: overall(rows) for kind, rows in kinds.items()}


def terminal_table(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as plain text, leaks first; the command line draws them."""
    headings = ["process", "quantity", "now", "per hour", "per 1,000 jobs", "in 24 h", "verdict"]
    rows = [
        [
            verdict.name,
            verdict.quantity.removesuffix("_bytes"),
            with_unit(verdict.level, verdict.quantity),
            interval(verdict.per_hour, verdict.quantity),
            interval(verdict.per_1000_jobs, verdict.quantity),
            interval(verdict.per_day, verdict.quantity),
            verdict.answer,
        ]
        for verdict in gravest_first(verdicts)
    ]
    return headings, rows


def gravest_first(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Leaks, then what is open, then the rest; else in the given order."""
    return sorted(verdicts, key=lambda v: 0 if v.is_leak else 2 if v.is_clean else 1)


def interval(slope: Slope | None, quantity: str) -> str:
    """`+1.2 MiB (+0.9 MiB … +1.4 MiB)`; a dash where nothing was fitted."""
    if slope is None:
        return "–"
    low, mid, high = (with_unit(value, quantity, signed=True) for value in (slope.low, slope.mid, slope.high))
    return mid if low == mid == high else f"{mid} ({low} … {high})"


def with_unit(value: float, quantity: str, *, signed: bool = False) -> str:
    """Bytes in B, KiB, MiB, GiB; counts plain. Three digits are enough for a verdict."""
    sign = "+" if signed and value > 0 else ""
    if not quantity.endswith("bytes"):
        return f"{sign}{value:,.3g}" if abs(value) < 1000 else f"{sign}{value:,.0f}"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= size:
            return (
                f"{sign}{value / size:.3g} {unit}" if abs(value) < 1000 * size else f"{sign}{value / size:,.0f} {unit}"
            )
    return f"{sign}{value:.3g} B" if abs(value) < 1000 else f"{sign}{value:.0f} B"


def _evaluate_traces(found: Findings, folder: Path, suspects: list[Verdict] | None, *, draw: bool) -> None:
    """Sites of each process that has memray files and is suspected (all of them for None)."""
    by_process: dict[str, list[TraceFile]] = {}
    for file in trace_files(folder):
        if suspects is None or any(_belongs(file, verdict) for verdict in suspects):
            by_process.setdefault(f"{file.process} ({file.pid})", []).append(file)
    sources = load_sources(folder)
    for process, files in by_process.items():
        try:
            found.sites[process] = merged(site for file in files for site in sites(file.path, sources, most=50))
            if draw and len(found.flame_graphs) < MOST_FLAME_GRAPHS:
                out = files[-1].path.with_suffix(".html")
                found.flame_graphs[process] = flame_graph(files[-1].path, out)
        except TracingError as error:
            found.notes.append(str(error))


def merged(many: Iterable[Site]) -> list[Site]:
    """Sites of several files of one process, added up per line and task; the stack of the greatest stays."""
    best: dict[tuple[str, int, str, str | None], Site] = {}
    for site in many:
        key = (site.file, site.line, site.function, site.task)
        old = best.get(key)
        if old is not None:
            stack = max(old, site, key=lambda s: s.grown_bytes).stack
            size, count = old.grown_bytes + site.grown_bytes, old.grown_allocations + site.grown_allocations
            site = Site(*key, size, count, stack)  # noqa: PLW2901 - the sum takes its place
        best[key] = site
    return sorted(best.values(), key=lambda site: -site.grown_bytes)[:MOST_SITES]


def _belongs(file: TraceFile, verdict: Verdict) -> bool:
    """A verdict on one process means its files; one on the replaced processes of a kind those of the whole
    kind.
    """
    if not verdict.quantity.endswith("bytes"):
        return False
    if verdict.processes > 1:
        return file.process.startswith(file_stem(verdict.kind))
    return file.process == file_stem(verdict.name)
