"""What the files of a `WorkerTrace` say, read afterwards.

sites()        which lines held more and more, and for which task
flame_graph()  memray's own HTML of what was never freed
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shmq.errors import TracingError
from shmq.memcheck.attribution import Source, task_of
from shmq.memcheck.line_watch import library_folders
from shmq.memcheck.tracing import require_memray

STACK_DEPTH = 40


@dataclass(frozen=True)
class Site:
    """A line of code that held more at the end of the trace than half-way through it.

    `file`, `line`, `function` name the innermost frame that is not a library's; `stack` has all frames,
    innermost first.
    """

    file: str
    line: int
    function: str
    task: str | None
    grown_bytes: int
    grown_allocations: int
    stack: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class TraceFile:
    """A memray file in a run's folder and what its name tells."""

    path: Path
    process: str  # "worker-computation-2"
    pid: int
    number: int


def trace_files(folder: Path) -> list[TraceFile]:
    """The memray files in a folder, by process, oldest first."""
    found: list[TraceFile] = []
    for path in sorted(folder.glob("*.memray")):
        stem, _, rest = path.name.removesuffix(".memray").partition(".")
        pid, _, number = rest.partition(".")
        if pid.isdigit() and number.isdigit():
            found.append(TraceFile(path, stem, int(pid), int(number)))
    return found


def load_sources(folder: Path) -> list[Source]:
    """Where the tasks stand, as the workers wrote it down; damaged files are left out."""
    found: dict[str, Source] = {}
    for path in sorted(folder.glob("sources-*.json")):
        try:
            found.update({row["task"]: Source(**row) for row in json.loads(path.read_text())})
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return list(found.values())


def sites(path: Path, sources: Iterable[Source] = (), *, most: int = 10) -> list[Site]:
    """The lines that held more at the end of the file than half-way through it, greatest growth first.

    Two snapshots of one file, so that what was set up once before counts for nothing. Allocations of one line
    by different ways are added up.

    Args:
        path: a memray file, also of a killed process.
        sources: of the tasks; a site belongs to the outermost task function in its stack.
        most: how many.

    Raises:
        TracingError: memray is not installed or cannot read the file.
    """
    memray = require_memray()
    known = list(sources)
    found: dict[tuple[str, int, str, str | None], Site] = {}
    try:
        with memray.FileReader(path, max_memory_records=10_000) as reader:
            half = len(list(reader.get_memory_snapshots())) // 2
            for record in reader.get_temporal_allocation_records(merge_threads=True):
                size, count = _growth(record.intervals, half)
                if size <= 0:
                    continue
                stack = tuple((file, line, function) for function, file, line in record.stack_trace(STACK_DEPTH))
                _add_site(found, _site(stack, size, count, known))
    except TracingError:
        raise
    except Exception as error:
        raise TracingError(
            f"{path} cannot be read ({error}). It is damaged, or was written by a newer memray."
        ) from error
    least = 0.01 * max((site.grown_bytes for site in found.values()), default=0)
    heavy = [site for site in found.values() if site.grown_bytes >= least]
    return sorted(heavy, key=lambda site: -site.grown_bytes)[:most]


def flame_graph(path: Path, out: Path, *, longest_s: float = 300.0) -> Path:
    """Memray's flame graph of what was allocated in the file and not freed, as one HTML file that needs no
    network.

    Made by a process of its own: evaluating a large file takes memory, and a damaged one may end in a crash.

    Raises:
        TracingError: memray is not installed, fails, or takes too long.
    """
    require_memray()
    command = [sys.executable, "-m", "memray", "flamegraph", "--leaks", "--force", "-o", str(out), str(path)]
    try:
        run = partial(subprocess.run, capture_output=True, text=True, timeout=longest_s, check=False)
        done = run([*command, "--no-web"])
        if "unrecognized arguments" in done.stderr:  # an older memray: its page loads parts from the network
            done = run(command)
    except subprocess.TimeoutExpired as error:
        raise TracingError(
            f"memray took longer than {longest_s:.0f} s over {path}. Trace for a shorter time, or in smaller files."
        ) from error
    if done.returncode != 0 or not out.exists():
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise TracingError(f"memray made no flame graph of {path} (exit code {done.returncode}: {said[0]}).")
    return out


def _growth(intervals: Iterable[Any], half: int) -> tuple[int, int]:
    """Bytes and allocations alive at the end minus those alive at snapshot `half`."""
    size = count = 0
    for interval in intervals:
        ended = interval.deallocated_before_snapshot
        lived_half = interval.allocated_before_snapshot <= half and (ended is None or ended > half)
        sign = (ended is None) - lived_half
        size += sign * interval.n_bytes
        count += sign * interval.n_allocations
    return size, count


def _site(stack: tuple[tuple[str, int, str], ...], size: int, count: int, sources: Sequence[Source]) -> Site:
    task = task_of(sources, ((file, line) for file, line, _ in stack))
    is_library: Callable[[str], bool] = lambda file: file.startswith((*library_folders(), "<"))
    own = next((frame for frame in stack if not is_library(frame[0])), stack[0] if stack else ("?", 0, "?"))
    return Site(*own, task, size, count, stack)


def _add_site(found: dict[tuple[str, int, str, str | None], Site], new: Site) -> None:
    key = (new.file, new.line, new.function, new.task)
    old = found.get(key)
    if old is None:
        found[key] = new
        return
    stack = old.stack if old.grown_bytes >= new.grown_bytes else new.stack
    total, count = old.grown_bytes + new.grown_bytes, old.grown_allocations + new.grown_allocations
    found[key] = Site(*key, total, count, stack)
