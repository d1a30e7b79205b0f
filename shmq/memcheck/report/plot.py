"""Line plots as SVG text: a few hundred points per line, axes with round numbers, a legend; no script and no
library.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from shmq.memcheck.slope import FloatArray

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 84, 12, 14, 34
MOST_LINES = 12
MOST_POINTS = 400
COLOURS = (
    "#3366cc",
    "#dc3912",
    "#109618",
    "#ff9900",
    "#990099",
    "#0099c6",
    "#dd4477",
    "#66aa00",
    "#b82e2e",
    "#316395",
)


@dataclass(frozen=True)
class Line:
    """One process in a plot: x in minutes since the run began."""

    name: str
    x: FloatArray
    y: FloatArray


def line_plot(lines: Sequence[Line], *, title: str, unit: Callable[[float], str], is_bytes: bool = False) -> str:
    """An `<svg>` element. The longest `MOST_LINES` lines are drawn; the caption says how many were left out.

    Args:
        lines: none may be empty.
        title: read out by screen readers and shown on hover.
        unit: how to write a value on the y axis.
        is_bytes: the y axis has round numbers of KiB, MiB or GiB.
    """
    drawn = sorted(lines, key=lambda line: -len(line.x))[:MOST_LINES]
    x_ticks = _ticks(min(float(line.x[0]) for line in drawn), max(float(line.x[-1]) for line in drawn))
    low, high = min(float(line.y.min()) for line in drawn), max(float(line.y.max()) for line in drawn)
    y_ticks = _byte_ticks(low, high) if is_bytes else _ticks(low, high)
    to_x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
        *_grid(x_ticks, y_ticks, to_x, to_y, unit),
    ]
    for index, line in enumerate(drawn):
        x, y = _thinned(line)
        points = " ".join(f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f'<polyline fill="none" stroke="{COLOURS[index % len(COLOURS)]}" points="{points}"/>')
    return "".join([*parts, "</svg>", _legend(drawn, len(lines) - len(drawn))])


def _legend(drawn: Sequence[Line], left_out: int) -> str:
    entries = [
        f'<span><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(line.name)}</span>'
        for i, line in enumerate(drawn)
    ]
    if left_out > 0:
        entries.append(f"<span>and {left_out} shorter ones</span>")
    return f'<div class="legend">{"".join(entries)}</div>'


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    unit: Callable[[float], str],
) -> list[str]:
    parts: list[str] = []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(unit(tick))}</text>')
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">minutes</text>')
    return parts


def _byte_ticks(low: float, high: float) -> list[float]:
    """Round numbers of the unit that the highest is written in."""
    base = next((size for size in (2.0**30, 2.0**20, 2.0**10) if abs(high) >= size), 1.0)
    return [tick * base for tick in _ticks(low / base, high / base)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that reach from below `low` to above `high`, about five of them."""
    if high <= low:
        spread = abs(low) * 0.05 or 0.5
        low, high = low - spread, high + spread
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    factor = (end - start) / (high - low)
    return lambda value: start + (value - low) * factor


def _thinned(line: Line) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest of each stretch, so that a spike stays visible."""
    if len(line.x) <= MOST_POINTS:
        return line.x, line.y
    edges = np.linspace(0, len(line.x), MOST_POINTS // 2 + 1).astype(np.intp)
    kept: list[int] = []
    for start, end in itertools.pairwise(edges):
        part = line.y[start:end]
        kept += sorted({int(start + part.argmin()), int(start + part.argmax())})
    return line.x[kept], line.y[kept]
