"""Tasks for the `filesystem` group: digest, search, compress and measure files of this host.

Paths are plain strings; pass absolute ones, because a relative path is looked up in the worker's folder and
not in the submitter's. Only regular files are read; symbolic links below a folder are not followed.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import hashlib
import heapq
import io
import lzma
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import BinaryIO, Literal

import msgspec

import shmq
from workers.files import CHUNK_BYTES, open_regular, refuse_same_file, replaced_file

# shake_* have no digest length of their own, so a hex digest of them is not one thing.
ALGORITHMS = sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_"))
MAX_LINE_CHARS = 1 << 16
SHOWN_LINE_CHARS = 500
_BINARY_PROBE_BYTES = 8192
_SUFFIXES_SHOWN = 30

Method = Literal["gzip", "bz2", "xz"]
_SUFFIX: dict[Method, str] = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz"}


class TextMatch(msgspec.Struct, frozen=True):
    """One matching line; `line` is cut at 500 characters."""

    path: str
    line_number: int
    line: str


class SearchOutcome(msgspec.Struct, frozen=True):
    """What `search_text` found. `is_complete` is False when `max_matches` ended the search early."""

    matches: list[TextMatch]
    files_searched: int
    files_skipped: int
    is_complete: bool


class CompressedFile(msgspec.Struct, frozen=True):
    """Where the compressed file is, and what it saved."""

    path: str
    original_bytes: int
    compressed_bytes: int


class FileSize(msgspec.Struct, frozen=True):
    """A file and its length."""

    path: str
    size_bytes: int


class TreeSize(msgspec.Struct, frozen=True):
    """What a folder holds. `disk_bytes` are allocated blocks; hard-linked files count once."""

    files: int
    folders: int
    other: int
    size_bytes: int
    disk_bytes: int
    largest: list[FileSize]
    bytes_by_suffix: dict[str, int]
    unreadable: int


@shmq.task(group="filesystem", retries=0, timeout=600.0, idempotent=True)
def hash_file(path: str, algorithm: str = "sha256") -> str:
    """Digest a file's content. Idempotent: it only reads.

    Args:
        path: a regular file of any size; it is read in pieces.
        algorithm: one of `ALGORITHMS`, such as sha256, blake2b, md5.

    Returns:
        The digest in hexadecimal, as `sha256sum` prints it.

    Raises:
        ValueError: unknown algorithm or unusable path.
        OSError: the file is missing, unreadable or not regular.
    """
    if algorithm not in ALGORITHMS:
        near = get_close_matches(algorithm.lower(), ALGORITHMS, 1) or ["sha256"]
        raise ValueError(f"unknown algorithm {algorithm!r}: did you mean {near[0]!r}? Known: {', '.join(ALGORITHMS)}")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open_regular(path) as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@shmq.task(group="filesystem", retries=0, timeout=600.0, idempotent=True)
def search_text(
    path: str,
    text: str,
    *,
    is_regex: bool = False,
    ignore_case: bool = False,
    file_pattern: str = "*",
    max_matches: int = 1000,
) -> SearchOutcome:
    """Find the lines that hold a text, in one file or in all files below a folder. Idempotent: it only reads.

    Files are read as UTF-8 (odd bytes become U+FFFD); binary files (a NUL in the first 8 KiB) and unreadable
    ones are skipped and counted. Lines longer than 65,536 characters are looked at in pieces of that length.

    Args:
        path: a file or a folder; a folder is walked in name order, links are not followed.
        text: what to look for; a regular expression (module `re`) with `is_regex`.
        file_pattern: shell pattern that a file's name must match, such as `*.py`; not asked of `path` itself.
        max_matches: stop after so many matches, 1 to 100,000; the outcome says if that happened.

    Raises:
        ValueError: empty text, broken regular expression, `max_matches` out of range.
        OSError: `path` is missing, or is neither file nor folder.
    """
    matcher = _line_matcher(text, is_regex, ignore_case)
    if not 1 <= max_matches <= 100_000:
        raise ValueError(f"max_matches is {max_matches}: expected 1 to 100000, results travel back in one piece")
    matches: list[TextMatch] = []
    searched = skipped = 0
    for file in _files_below(path, file_pattern):
        found = _matches_in(file, matcher, max_matches - len(matches)) if file is not None else None
        if found is None:
            skipped += 1
            continue
        searched += 1
        matches += found
        if len(matches) >= max_matches:
            return SearchOutcome(matches, searched, skipped, is_complete=False)
    return SearchOutcome(matches, searched, skipped, is_complete=True)


@shmq.task(group="filesystem", retries=0, timeout=1800.0, idempotent=True)
def compress(path: str, target: str | None = None, *, method: Method = "gzip", level: int = 6) -> CompressedFile:
    """Compress a file; the original stays. Idempotent: the target is replaced whole, by the same bytes again.

    Args:
        path: the file to compress, of any size.
        target: where to; by default `path` with `.gz`, `.bz2` or `.xz` added. A file there is replaced.
        method: gzip, bz2 or xz.
        level: 1 (fast) to 9 (small).

    Raises:
        ValueError: unknown method, level out of range, target and source are one file.
        OSError: the source cannot be read or the target not written.
    """
    if method not in _SUFFIX:
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(_SUFFIX)}")
    if not 1 <= level <= 9:
        raise ValueError(f"level is {level}: expected 1 (fast) to 9 (small)")
    with open_regular(path) as source:
        written = target if target is not None else path + _SUFFIX[method]
        refuse_same_file(written, path)
        with replaced_file(written) as output:
            with _compressor(output, method, level) as packed:
                shutil.copyfileobj(source, packed, CHUNK_BYTES)
            return CompressedFile(written, source.tell(), output.tell())


@shmq.task(group="filesystem", retries=0, timeout=1800.0, idempotent=True)
def measure_tree(path: str, largest: int = 10) -> TreeSize:
    """Count what lies below a folder and how much room it takes. Idempotent: it only looks.

    Args:
        path: a folder; links below it are counted as `other`, not followed.
        largest: how many of the largest files to name, 0 to 1,000.

    Raises:
        ValueError: `largest` out of range.
        OSError: `path` is missing or not a folder.
    """
    if not 0 <= largest <= 1000:
        raise ValueError(f"largest is {largest}: expected 0 to 1000")
    tally: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    top: list[tuple[int, str]] = []
    linked: set[tuple[int, int]] = set()
    with os.scandir(path):  # a wrong `path` is an error, an unreadable folder below it only a count
        pass
    folders = [path]
    while folders:
        for entry, status in _entries(folders.pop(), tally):
            if stat.S_ISDIR(status.st_mode):
                tally["folders"] += 1
                folders.append(entry.path)
            elif not stat.S_ISREG(status.st_mode):
                tally["other"] += 1
            elif status.st_nlink == 1 or (status.st_dev, status.st_ino) not in linked:
                if status.st_nlink > 1:  # only these can come again; remembering every file would cost memory
                    linked.add((status.st_dev, status.st_ino))
                tally.update(files=1, size=status.st_size, disk=status.st_blocks * 512)
                suffixes[os.path.splitext(entry.name)[1].lower()] += status.st_size
                (heapq.heappush if len(top) < largest else heapq.heappushpop)(top, (status.st_size, entry.path))
    return TreeSize(
        files=tally["files"],
        folders=tally["folders"],
        other=tally["other"],
        size_bytes=tally["size"],
        disk_bytes=tally["disk"],
        largest=[FileSize(name, size) for size, name in sorted(top, reverse=True)],
        bytes_by_suffix=dict(suffixes.most_common(_SUFFIXES_SHOWN)),
        unreadable=tally["unreadable"],
    )


def _line_matcher(text: str, is_regex: bool, ignore_case: bool) -> Callable[[str], object]:
    if not text:
        raise ValueError("text is empty, it would match every line: pass what to look for")
    try:
        return re.compile(text if is_regex else re.escape(text), re.IGNORECASE if ignore_case else 0).search
    except re.error as broken:
        raise ValueError(
            f"regular expression {text!r} is broken: {broken}. Without is_regex it is taken as it stands."
        ) from None


def _files_below(path: str, file_pattern: str) -> Iterator[str | None]:
    """Names of the files to look at, in a fixed order; None for a folder that cannot be read."""
    if not os.path.isdir(path):
        open_regular(path).close()  # the named file itself must be readable: an error, not a skipped file
        yield path
        return
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        folders.sort()
        for name in sorted(files):
            if fnmatch.fnmatch(name, file_pattern) and not os.path.islink(os.path.join(folder, name)):
                yield os.path.join(folder, name)
    yield from (None for _ in unreadable)


def _matches_in(path: str, matcher: Callable[[str], object], limit: int) -> list[TextMatch] | None:
    """Matching lines of a file, None when it is binary or cannot be read."""
    try:
        with io.BufferedReader(open_regular(path)) as source:
            if b"\0" in source.peek(_BINARY_PROBE_BYTES)[:_BINARY_PROBE_BYTES]:
                return None
            with io.TextIOWrapper(source, encoding="utf-8", errors="replace") as text:
                return _matching_lines(path, text, matcher, limit)
    except OSError:
        return None


def _matching_lines(path: str, text: io.TextIOWrapper, matcher: Callable[[str], object], limit: int) -> list[TextMatch]:
    found: list[TextMatch] = []
    number, starts_line = 0, True
    while len(found) < limit and (line := text.readline(MAX_LINE_CHARS)):
        number += starts_line
        starts_line = line.endswith("\n")
        if matcher(line.rstrip("\n")):
            found.append(TextMatch(path, number, line.rstrip("\n")[:SHOWN_LINE_CHARS]))
    return found


def _compressor(output: BinaryIO, method: Method, level: int) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if method == "gzip":
        # No name and no time in the header: the same input must give the same bytes on every attempt.
        return gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=output, mtime=0)
    if method == "bz2":
        return bz2.BZ2File(output, "wb", compresslevel=level)
    return lzma.LZMAFile(output, "wb", preset=level)


def _entries(folder: str, tally: Counter[str]) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    yield entry, entry.stat(follow_symlinks=False)
                except OSError:
                    tally["unreadable"] += 1
    except OSError:
        tally["unreadable"] += 1
