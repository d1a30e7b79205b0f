"""Plain text for the terminal: tables, sizes, durations. Names from outside lose their control characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
NOTHING = "·"


def printable(text: str, most: int | None = None) -> str:
    """The text with control characters shown as escapes (a terminal would obey them), perhaps shortened."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under a head line; a head that begins with ">" aligns its column to the right."""
    is_right = [title.startswith(">") for title in head]
    lines = [
        [title.removeprefix(">") for title in head],
        *([printable(cell) for cell in row] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_right, strict=True)
        ).rstrip()
        for line in lines
    )


def seconds(value: float | None) -> str:
    """A duration in three digits: 340 ns, 12.5 µs, 1.25 ms, 34.0 s, 5 min, 3.2 h, 12 days."""
    if value is None:
        return NOTHING
    for unit, length_s in (("days", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * length_s:
            return f"{value / length_s:.3g} {unit}"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def size(value: float) -> str:
    """Bytes in binary units: 512 B, 51.2 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def number(value: float | None) -> str:
    """A count or rate; nothing that looks more exact than it is."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
