"""Algorithms for more data than memory: the rest goes through temporary files that die with their process.

    sorting   lines -> sorted runs of bounded size -> merges of 64 runs each
              (Knuth, The Art of Computer Programming vol. 3, 5.4.1)
    joining   rows of both sides -> partitions by a hash of the key -> one table at a time
              (Kitsuregawa, Tanaka and Moto-oka, New Generation Computing 1, 1983)

The temporary files have no name, so that a killed worker leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import csv
import heapq
import io
import itertools
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

FAN_IN = 64
MAX_PARTITIONS = 256
_BUFFER_BYTES = 64 * 1024
# What a row's place in a table takes beside the row: a dict entry, and the list of rows of its key.
_ENTRY_BYTES = 200
# Partitions are never quite even: twice the share is still taken.
_PARTITION_SLACK = 2

Row = list[str]
Key = Callable[[Row], str]


def complete_lines(source: IO[bytes], max_line_bytes: int) -> Iterator[bytes]:
    """Lines of a file without their newlines, which must not take part in comparing: a tab sorts before them.

    Raises:
        ValueError: a line longer than `max_line_bytes`, with its number.
    """
    for number in itertools.count(1):
        line = source.readline(max_line_bytes + 1)
        if not line:
            return
        line = line.removesuffix(b"\n")
        if len(line) > max_line_bytes:
            raise ValueError(
                f"line {number} is longer than {max_line_bytes} bytes, a quarter of max_memory_bytes: "
                "raise that, if this is a file of lines at all"
            )
        yield line


def sorted_runs(
    lines: Iterable[bytes],
    max_memory_bytes: int,
    folder: str,
    is_descending: bool,
    opened: contextlib.ExitStack,
) -> list[IO[bytes]]:
    """Cut lines into sorted runs on disk; whenever 64 of one size have come together they become one.

    Args:
        opened: closes the runs that are returned.

    Returns:
        Fewer than 64 runs per size, each written to its end.
    """
    levels: list[list[IO[bytes]]] = [[]]
    for batch in _batches(lines, max_memory_bytes):
        batch.sort(reverse=is_descending)
        levels[0].append(opened.enter_context(_spilled(batch, folder)))
        for depth in itertools.count():
            if len(levels[depth]) < FAN_IN:
                break
            longer = opened.enter_context(_spilled(merged(levels[depth], is_descending), folder))
            for run in levels[depth]:
                run.close()
            levels[depth] = []
            levels[depth + 1 :] = levels[depth + 1 :] or [[]]
            levels[depth + 1].append(longer)
    return [run for level in levels for run in level]


def merged(runs: list[IO[bytes]], is_descending: bool) -> Iterator[bytes]:
    """Lines of sorted runs in one order, without newlines; each run is read once, from its start."""
    for run in runs:
        run.seek(0)
    return heapq.merge(*(map(_without_newline, run) for run in runs), reverse=is_descending)


def partitions_for(sample: list[Row], size_bytes: int, max_memory_bytes: int) -> int:
    """How many partitions a table of `size_bytes` needs, so that each fits in memory.

    Args:
        sample: its first rows; as objects short cells take some 40 times their room in the file, long ones 1.

    Raises:
        ValueError: more than 256; says how much memory would do.
    """
    in_file = sum(len(cell) + 1 for row in sample for cell in row)
    held_bytes = size_bytes * sum(map(_held_bytes, sample)) // max(1, in_file)
    needed = max(1, -(-held_bytes // max_memory_bytes))
    if needed > MAX_PARTITIONS:
        enough = -(-held_bytes // MAX_PARTITIONS)
        raise ValueError(
            f"max_memory_bytes={max_memory_bytes} cuts the right table of {size_bytes} bytes into {needed} "
            f"partitions, {MAX_PARTITIONS} is the most: give it {enough} bytes, or swap the tables"
        )
    return needed


def partitioned(
    rows: Iterable[Row], key: Key, count: int, folder: str, opened: contextlib.ExitStack
) -> list[Iterator[Row]]:
    """Spread rows over `count` partitions, equal keys into the same one; a single partition stays a stream.

    The hash is CRC-32 and not `hash()`, which differs between processes: a repeated job must give the same
    order.

    Args:
        opened: closes the partitions' files.
    """
    if count == 1:
        return [iter(rows)]
    files = [opened.enter_context(_text_file(folder)) for _ in range(count)]
    writers = [csv.writer(file) for file in files]
    for row in rows:
        writers[zlib.crc32(key(row).encode("utf-8", "surrogateescape")) % count].writerow(row)
    return [_rows_again(file) for file in files]


def table_by_key(rows: Iterable[Row], key: Key, max_memory_bytes: int) -> dict[str, list[Row]]:
    """All rows of one partition under their keys.

    Raises:
        ValueError: the partition does not fit; names the key with most rows.
    """
    table: dict[str, list[Row]] = {}
    used_bytes = 0
    for row in rows:
        table.setdefault(key(row), []).append(row)
        used_bytes += _held_bytes(row)
        if used_bytes > _PARTITION_SLACK * max_memory_bytes:
            worst = max(table, key=lambda name: len(table[name]))
            raise ValueError(
                f"one partition of the right table exceeds max_memory_bytes={max_memory_bytes}; its most "
                f"frequent key {worst[:80]!r} has {len(table[worst])} rows so far: give more, or swap the "
                "tables"
            )
    return table


def _batches(lines: Iterable[bytes], max_memory_bytes: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    used_bytes = 0
    for line in lines:
        batch.append(line)
        used_bytes += sys.getsizeof(line) + 8  # the list's own pointer
        if used_bytes >= max_memory_bytes:
            yield batch
            batch, used_bytes = [], 0
    if batch:
        yield batch


def _spilled(lines: Iterable[bytes], folder: str) -> IO[bytes]:
    run = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER_BYTES)  # noqa: SIM115 -- closed by the caller
    try:
        run.writelines(line + b"\n" for line in lines)
    except BaseException:
        run.close()
        raise
    return run


def _without_newline(line: bytes) -> bytes:
    return line[:-1]


def _held_bytes(row: Row) -> int:
    return _ENTRY_BYTES + sys.getsizeof(row) + sum(map(sys.getsizeof, row))


def _text_file(folder: str) -> io.TextIOWrapper:
    file = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER_BYTES)  # noqa: SIM115 -- closed by the caller
    return io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")


def _rows_again(file: io.TextIOWrapper) -> Iterator[Row]:
    file.seek(0)
    yield from csv.reader(file)
