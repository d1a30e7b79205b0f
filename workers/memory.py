"""Tasks for the `memory` group: data that is larger than one would like to hold, looked at piece by piece.

Working memory is bounded by an argument or by the chunk, never by the length of the input. Paths as in
`workers.filesystem`: absolute, regular files. CSV files are UTF-8 with a header line, as RFC 4180 has them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

import shmq
from workers import spill, tables
from workers.files import open_regular, refuse_same_file, replaced_file

MIN_MEMORY_BYTES = 64 * 1024
_SAMPLE_ROWS = 1000


class Summary(msgspec.Struct, frozen=True):
    """Statistics of numbers; `missing` are NaN or empty. `std` is the sample's (n - 1); None: undefined."""

    count: int
    missing: int
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None


class ColumnStatistics(msgspec.Struct, frozen=True):
    """One column; `text_cells` were not numbers and are in no figure of `numbers`."""

    name: str
    text_cells: int
    numbers: Summary


class CsvStatistics(msgspec.Struct, frozen=True):
    """What a CSV file holds."""

    rows: int
    columns: list[ColumnStatistics]


class SortOutcome(msgspec.Struct, frozen=True):
    """The sorted file; `runs` says how many pieces were merged at the end (1: all fitted in memory)."""

    path: str
    lines: int
    runs: int


class JoinOutcome(msgspec.Struct, frozen=True):
    """The joined file; `partitions` above 1 mean that the right table did not fit in memory."""

    path: str
    rows: int
    partitions: int


class _Moments:
    """Running statistics of chunks, merged so that no digits cancel (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self.count = self.missing = 0
        self.mean = self.squares = 0.0
        self.minimum, self.maximum = math.inf, -math.inf

    def add(self, chunk: NDArray[np.float64]) -> None:
        present = chunk[~np.isnan(chunk)]
        self.missing += chunk.size - present.size
        if not present.size:
            return
        # infinities make the mean infinite or NaN: that is the answer, not a warning
        with np.errstate(invalid="ignore", over="ignore"):
            mean = float(present.mean())
            squares = float(np.square(present - mean).sum())
            total, shift = self.count + present.size, mean - self.mean
            self.squares += squares + shift * shift * self.count * present.size / total
            self.mean += shift * present.size / total
        self.count = total
        self.minimum = min(self.minimum, float(present.min()))
        self.maximum = max(self.maximum, float(present.max()))

    def summary(self) -> Summary:
        if not self.count:
            return Summary(0, self.missing, None, None, None, None)
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None
        return Summary(self.count, self.missing, self.mean, std, self.minimum, self.maximum)


@shmq.task(group="memory", retries=0, timeout=3600.0, idempotent=True)
def csv_statistics(
    path: str, columns: list[str] | None = None, *, delimiter: str = ",", chunk_rows: int = 20_000
) -> CsvStatistics:
    """Count, mean, deviation and extremes of a CSV file's columns. Idempotent: it only reads.

    Args:
        path: file with a header line, of any length.
        columns: which ones, by name; all by default.
        chunk_rows: rows looked at together, 1 to 1,000,000; memory grows with it and not with the file.

    Raises:
        ValueError: unknown or doubled column, ragged row (with its line), no header, bad delimiter or chunk.
        OSError: the file cannot be read.
    """
    if not 1 <= chunk_rows <= 1_000_000:
        raise ValueError(f"chunk_rows is {chunk_rows}: expected 1 to 1000000")
    with tables.rows_of(path, delimiter) as (header, rows):
        names = header if columns is None else columns
        places = [tables.place_of(path, header, name) for name in names]
        moments = [_Moments() for _ in places]
        text_cells = [0] * len(places)
        count = 0
        while chunk := list(itertools.islice(rows, chunk_rows)):
            count += len(chunk)
            for i, place in enumerate(places):
                numbers, texts = tables.numbers_in([row[place] for row in chunk])
                moments[i].add(numbers)
                text_cells[i] += texts
    done = zip(names, text_cells, moments, strict=True)
    return CsvStatistics(count, [ColumnStatistics(name, texts, column.summary()) for name, texts, column in done])


@shmq.task(group="memory", retries=0, timeout=3600.0, idempotent=True)
def array_statistics(array: NDArray[Any], chunk_elements: int = 1 << 18) -> Summary:
    """Count, mean, deviation and extremes of an array, without a copy of it. Idempotent: a pure function.

    Args:
        array: integers or real floats of any shape and memory layout; NaN counts as missing.
        chunk_elements: elements converted to float64 at a time, 1,024 to 2**26.

    Raises:
        ValueError: not such an array, chunk out of range.
    """
    _check_real(array)
    if not 1024 <= chunk_elements <= 1 << 26:
        raise ValueError(f"chunk_elements is {chunk_elements}: expected 1024 to {1 << 26}")
    moments = _Moments()
    # nditer converts through one buffer, whatever the layout; astype or ravel would copy the whole array.
    chunks: Iterable[NDArray[np.float64]] = np.nditer(  # type: ignore[assignment]  # one operand: no tuples
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_dtypes=[np.float64],
        casting="unsafe",  # float128 and 64-bit integers lose digits: float64 statistics are what is promised
        buffersize=chunk_elements,
    )
    for chunk in chunks:
        for start in range(0, chunk.size, chunk_elements):  # without need to convert, all comes in one piece
            moments.add(chunk[start : start + chunk_elements])
    return moments.summary()


@shmq.task(group="memory", retries=0, timeout=3600.0, idempotent=True)
def external_sort(
    path: str,
    target: str,
    *,
    order: Literal["ascending", "descending"] = "ascending",
    max_memory_bytes: int = 64 << 20,
) -> SortOutcome:
    """Sort the lines of a file of any size. Idempotent: the target is replaced whole.

    Lines are ordered by their bytes, as `LC_ALL=C sort` does it.

    Args:
        path: file of lines; a missing newline at the end is added.
        target: sorted file, not the source itself. Its file system needs the same room again for a while.
        max_memory_bytes: for the lines held at a time, at least 64 KiB; a quarter of it is the longest line.

    Raises:
        ValueError: unknown order, too little memory, too long a line, target and source are one file.
        OSError: the source cannot be read, the target not written.
    """
    if order not in ("ascending", "descending"):
        raise ValueError(f"order is {order!r}: expected 'ascending' or 'descending'")
    _check_memory(max_memory_bytes)
    is_descending, folder = order == "descending", _folder(target)
    with contextlib.ExitStack() as opened:
        source = opened.enter_context(io.BufferedReader(opened.enter_context(open_regular(path))))
        refuse_same_file(target, path)
        output = opened.enter_context(replaced_file(target))
        lines = spill.complete_lines(source, max_memory_bytes // 4)
        runs = spill.sorted_runs(lines, max_memory_bytes, folder, is_descending, opened)
        count = 0
        for line in spill.merged(runs, is_descending):
            output.write(line + b"\n")
            count += 1
    return SortOutcome(target, count, len(runs))


@shmq.task(group="memory", retries=0, timeout=3600.0, idempotent=True)
def join_csv(
    left: str,
    right: str,
    target: str,
    on: str,
    *,
    how: Literal["inner", "left"] = "inner",
    delimiter: str = ",",
    max_memory_bytes: int = 64 << 20,
) -> JoinOutcome:
    """Join two CSV files on a column of equal name and text. Idempotent: the target is replaced whole.

    Columns of the right table that the left has too get `_right` added. Rows come in the left table's order
    when the right one fits in memory, else so within each partition; equal input gives equal output.

    Args:
        left, right: files with header lines; the right one, best the smaller, is held in memory part by part.
        target: the joined file, comma-separated; not one of the two.
        on: the key column.
        how: "inner" drops left rows without a partner, "left" keeps them with empty cells.
        max_memory_bytes: for the right rows held at a time, at least 64 KiB.

    Raises:
        ValueError: no such column, ragged row, unknown `how`, a key or table too large for the memory given.
        OSError: a file cannot be read or written.
    """
    if how not in ("inner", "left"):
        raise ValueError(f"how is {how!r}: expected 'inner' or 'left'")
    _check_memory(max_memory_bytes)
    folder = _folder(target)
    with (
        tables.rows_of(left, delimiter) as (left_header, left_rows),
        tables.rows_of(right, delimiter) as (right_header, right_rows),
    ):
        refuse_same_file(target, left, right)
        l_key, r_key = tables.place_of(left, left_header, on), tables.place_of(right, right_header, on)
        added = [name + "_right" if name in left_header else name for i, name in enumerate(right_header) if i != r_key]
        sample = list(itertools.islice(right_rows, _SAMPLE_ROWS))
        count = spill.partitions_for(sample, os.path.getsize(right), max_memory_bytes)
        with contextlib.ExitStack() as opened:
            output = opened.enter_context(_text_output(target))
            writer = csv.writer(output, lineterminator="\n")
            writer.writerow(left_header + added)
            unmatched = [[""] * len(right_header)] if how == "left" else []
            rows = 0
            all_rights = itertools.chain(sample, right_rows)
            rights = spill.partitioned(all_rights, lambda row: row[r_key], count, folder, opened)
            lefts = spill.partitioned(left_rows, lambda row: row[l_key], count, folder, opened)
            for left_part, right_part in zip(lefts, rights, strict=True):
                partners = spill.table_by_key(right_part, lambda row: row[r_key], max_memory_bytes)
                for row in left_part:
                    for partner in partners.get(row[l_key], unmatched):
                        writer.writerow(row + partner[:r_key] + partner[r_key + 1 :])
                        rows += 1
                del partners  # before the next table is built: two would not fit
    return JoinOutcome(target, rows, count)


def _check_memory(max_memory_bytes: int) -> None:
    if max_memory_bytes < MIN_MEMORY_BYTES:
        raise ValueError(f"max_memory_bytes is {max_memory_bytes}: expected at least {MIN_MEMORY_BYTES}")


def _check_real(array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"array is {kind}: expected a numpy array of integers, booleans or real floats")


def _folder(target: str) -> str:
    return os.path.dirname(os.path.abspath(target))


@contextlib.contextmanager
def _text_output(target: str) -> Iterator[io.TextIOWrapper]:
    with replaced_file(target) as output:
        text = io.TextIOWrapper(output, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            yield text
        finally:
            text.detach()  # flushes; closing it would close the file before it is renamed
