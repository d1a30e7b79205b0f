"""Findings as one HTML file: styles and plots inside, no script, every text from outside escaped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from html import escape
from pathlib import Path
from urllib.parse import quote

from shmq.memcheck.attribution import Growth
from shmq.memcheck.recording import load_run
from shmq.memcheck.report.findings import Findings, evaluate, gravest_first, interval, with_unit
from shmq.memcheck.report.plot import Line, line_plot
from shmq.memcheck.slope import Slope
from shmq.memcheck.traces import Site
from shmq.memcheck.verdict import Verdict
from shmq.memcheck.windows import Series

REPORT, RESULT = "report.html", "result.json"
MOST_REPLACED = 200  # processes of a kind that are looked at for a plot
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --open: #b26a00; --good: #2e7d32; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .2rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.verdict { min-width: 17rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: 13px/1.45 ui-monospace, monospace; } pre { white-space: pre-wrap; margin: .3rem 0; }
.answer { font-size: 1.5rem; font-weight: 600; } .why { opacity: .75; font-size: .9em; }
.leak { color: var(--bad); font-weight: 600; } .open { color: var(--open); } .clean { color: var(--good); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1rem 2rem; }
.plot { width: 100%; height: auto; } .plot line { stroke: var(--line); }
.plot text { font: 11px system-ui, sans-serif; fill: currentColor; } .plot polyline { stroke-width: 1.5; }
.legend { font-size: .85em; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; }
"""


def write_report(folder: Path, *, traces: str = "suspects", flame_graphs: bool = True) -> tuple[Path, Findings]:
    """Read the run in `folder`, judge it, write `report.html` and `result.json` there. May be repeated at any
    time. Where they cannot be written (a full disk), a note says so: the answer is there all the same.

    Args:
        folder: of a run.
        traces: whose memray files to evaluate: "suspects", "all" or "none".
        flame_graphs: whether memray draws them.

    Raises:
        TracingError: no run there.
    """
    found = evaluate(load_run(folder), traces=traces, flame_graphs=flame_graphs)
    path = folder / REPORT
    try:
        path.write_text(render(found), encoding="utf-8")
        (folder / RESULT).write_text(json.dumps(_result(found), indent=1), encoding="utf-8")
    except OSError as error:
        found.notes.append(f"{path}: cannot be written ({error.strerror or error}). Free space, or copy the folder.")
    return path, found


def render(found: Findings) -> str:
    """The page as text."""
    about = found.run.about
    title = str(about.get("title", "shmq: memory of a run"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="answer {_class(found.answer)}">{escape(found.answer)}</p>'
        f"{_about(found)}{_culprits(found)}"
        f"<h2>Verdicts</h2>{_verdicts(found.verdicts)}"
        f"{_sites(found)}{_growth(found.growth)}"
        f"<h2>Plots</h2>{_plots(found.run.series, float(about.get('started_t_s', 0.0)))}</body></html>\n"
    )


def _about(found: Findings) -> str:
    about = found.run.about
    facts = [str(about[key]) for key in ("conversion",) if about.get(key)]
    seconds = about.get("seconds")
    length = (
        f"{float(seconds) / 60:.1f} minutes" if seconds else "no end was recorded: the run was killed or still goes on"
    )
    where = ", ".join(f"{key} {about[key]}" for key in ("python", "kernel", "cpus") if key in about)
    facts.append(f"Begun {about.get('started_at', '?')}; {length}; {where}.")
    return "".join(f"<p>{escape(fact)}</p>" for fact in (*facts, *found.notes))


def _culprits(found: Findings) -> str:
    if not found.culprits:
        return ""
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in found.culprits)
    return f"<h2>Suspects</h2><ul>{items}</ul>"


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "<p>No readings.</p>"
    head = _row("th", ["process", "quantity", "verdict", "now", "per hour", "per 1,000 jobs", "in 24 h"])
    rows = "".join(map(_verdict, gravest_first(verdicts)))
    note = (
        "Estimate and 99 % interval of the growth. "
        "The day is one of jobs where growth goes with jobs, else one of clock."
    )
    return f'<div class="wide"><table>{head}{rows}</table></div><p class="why">{note}</p>'


def _verdict(verdict: Verdict) -> str:
    unit = verdict.quantity
    why = f"{verdict.reason}; {verdict.readings:,} readings, {verdict.warm_up_s:.0f} s of warm-up left out"
    limit = f"limit {with_unit(verdict.limit_per_day, unit)}"
    slopes = _slope(verdict.per_hour, unit) + _slope(verdict.per_1000_jobs, unit) + _slope(verdict.per_day, unit, limit)
    return (
        f"<tr><td>{escape(verdict.name)}</td><td>{escape(unit)}</td>"
        f'<td class="verdict"><span class="{_class(verdict.answer)}">{escape(verdict.answer)}</span>'
        f'<br><span class="why">{escape(why)}</span></td>'
        f'<td class="number">{escape(with_unit(verdict.level, unit))}</td>{slopes}</tr>'
    )


def _slope(slope: Slope | None, quantity: str, *more: str) -> str:
    mid, _, between = interval(slope, quantity).partition(" (")
    below = [between.rstrip(")")] if between else []
    lines = "".join(f'<br><span class="why">{escape(text)}</span>' for text in (*below, *more))
    return f'<td class="number">{escape(mid)}{lines}</td>'


def _sites(found: Findings) -> str:
    parts: list[str] = []
    for process, sites in found.sites.items():
        parts.append(f"<h3>{escape(process)}</h3>")
        graph = found.flame_graphs.get(process)
        if graph is not None:
            target = quote(os.path.relpath(graph, found.run.folder))
            parts.append(f'<p><a href="{target}">flame graph of what was not freed</a></p>')
        head = _row("th", ["grown by", "allocations", "where", "task"])
        parts.append(f'<div class="wide"><table>{head}{"".join(map(_site, sites))}</table></div>')
    return f"<h2>Lines that held more and more (memray)</h2>{''.join(parts)}" if parts else ""


def _site(site: Site) -> str:
    stack = "\n".join(f"{file}:{line} {function}" for file, line, function in site.stack)
    place = f"<code>{escape(f'{site.file}:{site.line}')}</code> {escape(site.function)}"
    return (
        f'<tr><td class="number">{escape(with_unit(site.grown_bytes, "bytes"))}</td>'
        f'<td class="number">{site.grown_allocations:,}</td>'
        f"<td><details><summary>{place}</summary>"
        f"<pre>{escape(stack)}</pre></details></td><td>{escape(site.task or '–')}</td></tr>"
    )


def _growth(growth: Sequence[Growth]) -> str:
    if not growth:
        return ""
    units = sorted({unit for g in growth for unit in g.counts})
    columns = ["task", "jobs measured", "bytes per 1,000 jobs", "per 1,000 failed jobs"]
    columns += [f"{unit} per 1,000 jobs" for unit in units]
    rows = "".join(_task(g, units) for g in growth)
    return (
        "<h2>What the jobs of each task left behind</h2>"
        f'<div class="wide"><table>{_row("th", [*columns, "lines"])}{rows}</table></div>'
    )


def _task(growth: Growth, units: Sequence[str]) -> str:
    failed = f"{growth.bytes_per_1000_failed_jobs:,.0f}" if growth.failed_jobs else "–"
    numbers = [f"{growth.jobs:,}", f"{growth.bytes_per_1000_jobs:,.0f}", failed]
    numbers += [f"{growth.count_per_1000_jobs(unit):,.1f}" for unit in units]
    cells = "".join(f'<td class="number">{text}</td>' for text in numbers)
    return f"<tr><td>{escape(growth.task)}</td>{cells}<td>{_lines(growth)}</td></tr>"


def _lines(growth: Growth) -> str:
    return "<br>".join(
        f"<code>{escape(f'{file}:{line}')}</code> {escape(function)}: {left:,.1f} {escape(unit)} per job"
        for (file, line, function), unit, left in growth.lines()
    )


def _plots(series: Iterable[Series], start_s: float) -> str:
    """One plot per kind and quantity; minutes count from the start of the run."""
    by_key: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        by_key.setdefault((one.kind, one.quantity), []).append(one)
    parts: list[str] = []
    for (kind, quantity), group in by_key.items():
        lines = [Line(s.name, (s.t_s - start_s) / 60, s.value) for s in group[:MOST_REPLACED]]
        title = f"{kind}: {quantity}"
        unit = partial(with_unit, quantity=quantity)
        plot = line_plot(lines, title=title, unit=unit, is_bytes=quantity.endswith("bytes"))
        parts.append(f"<div><h3>{escape(title)}</h3>{plot}</div>")
    return f'<div class="plots">{"".join(parts)}</div>' if parts else "<p>No readings.</p>"


def _row(cell: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(text)}</{cell}>' for text in texts)}</tr>"


def _class(answer: str) -> str:
    return {"leak": "leak", "no leak": "clean"}.get(answer, "open")


def _result(found: Findings) -> dict[str, object]:
    """For programs: what the page says, without the plots."""
    return {
        "answer": found.answer,
        "about": found.run.about,
        "notes": found.notes,
        "culprits": found.culprits,
        "verdicts": [asdict(verdict) for verdict in found.verdicts],
        "sites": {process: [asdict(site) for site in sites] for process, sites in found.sites.items()},
        "tasks": [
            {
                "task": g.task,
                "jobs_measured": g.jobs,
                "bytes_per_1000_jobs": g.bytes_per_1000_jobs,
                "bytes_per_1000_failed_jobs": g.bytes_per_1000_failed_jobs,
                "counts_per_1000_jobs": {unit: g.count_per_1000_jobs(unit) for unit in g.counts},
                "lines": [
                    {"file": f, "line": n, "function": fn, "unit": u, "per_job": x} for (f, n, fn), u, x in g.lines()
                ],
            }
            for g in found.growth
        ],
    }
