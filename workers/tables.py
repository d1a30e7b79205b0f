"""CSV files as rows of text, with errors that name file and line."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from workers.files import open_regular

Row = list[str]


@contextlib.contextmanager
def rows_of(path: str, delimiter: str) -> Iterator[tuple[Row, Iterator[Row]]]:
    """Open a CSV file: its header, and its rows, each as wide as the header; blank lines are no rows.

    Raises:
        ValueError: bad delimiter, no header; while iterating, a ragged row or broken quoting, with its line.
        OSError: the file cannot be read.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"delimiter is {delimiter!r}: expected one character such as ',' ';' or a tab")
    with open_regular(path) as raw, io.BufferedReader(raw) as source:
        # surrogateescape: bytes that are no UTF-8 pass a join unharmed; utf-8-sig: spreadsheets write a mark
        text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = _checked_rows(path, text, delimiter)
        header = next(rows, None)
        if header is None:
            raise ValueError(f"{path!r} has no header line: the first line must name the columns")
        yield header, rows


def place_of(path: str, header: Row, name: str) -> int:
    """Index of a column.

    Raises:
        ValueError: there is none of that name, or more than one.
    """
    if header.count(name) != 1:
        what = "no" if name not in header else f"{header.count(name)} times the"
        shown = ", ".join(map(repr, header[:50]))
        raise ValueError(f"{path!r} has {what} column {name!r}: its columns are {shown}; another delimiter?")
    return header.index(name)


def numbers_in(cells: list[str]) -> tuple[NDArray[np.float64], int]:
    """Cells as floats, empty ones as NaN, without those that are text; and the count of these."""
    try:
        return np.array([float(cell or "nan") for cell in cells]), 0
    except ValueError:  # rare in a column of numbers, so the quick way is tried first
        numbers = [number for cell in cells if (number := _number(cell)) is not None]
        return np.array(numbers, dtype=np.float64), len(cells) - len(numbers)


def _checked_rows(path: str, text: io.TextIOWrapper, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(text, delimiter=delimiter)
    width = 0
    try:
        for row in reader:
            if row and width not in (0, len(row)):
                raise ValueError(
                    f"{path!r} line {reader.line_num} has {len(row)} cells, the header {width}: "
                    "another delimiter, or an unclosed quote?"
                )
            if row:
                width = len(row)
                yield row
    except csv.Error as wrong:
        raise ValueError(f"{path!r} line {reader.line_num} is not CSV: {wrong}; an unclosed quote?") from None


def _number(cell: str) -> float | None:
    try:
        return float(cell.strip() or "nan")
    except ValueError:
        return None
