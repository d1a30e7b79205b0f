"""The door to memray: the only module that imports it, and only when asked to.

    WorkerTrace    in the worker: a Tracker from after the fork to before the exit, in bounded files
    sites()        afterwards: which lines held more and more, and for which task
    flame_graph()  afterwards: memray's own HTML of what was never freed

A file of the default format can be read after SIGKILL as well (an aggregated one cannot). Every event of
every allocation is written: about 6 bytes each, so some MB per second in a busy worker, until the file is
closed and compressed to a twentieth.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from shmq.errors import TracingError
from shmq.memcheck.attribution import Source, task_of
from shmq.memcheck.line_watch import library_folders

LOG = logging.getLogger("shmq.memcheck")
MAX_FILE_BYTES = 64 * 2**20  # some 10 million events: a few seconds to evaluate
KEPT_FILES = 2  # closed and compressed, beside the one that is written
RESERVE_BYTES = 256 * 2**20  # left free on the disk
CHECK_EVERY_S = 0.25
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


def require_memray() -> ModuleType:
    """The module memray.

    Raises:
        TracingError: it is not installed; the message says how to.
    """
    if importlib.util.find_spec("memray") is None:
        raise TracingError(
            "Memory tracing needs memray, which is not installed for this Python. "
            f"Install it: {sys.executable} -m pip install 'shmq[memray]'"
        )
    import memray

    module: ModuleType = memray
    return module


class WorkerTrace:
    """One memray Tracker of this process, in one file after the other.

    Whatever goes wrong (memray missing, another Tracker active, no permission, disk full) ends the tracing,
    never the worker: `problem` holds the sentence that was logged.

    Caller must: call `start` after the fork and in the main thread, `tick` between jobs, `stop` before
    `os._exit`.
    """

    def __init__(
        self,
        folder: Path,
        process: str,
        *,
        sources: Sequence[Source] = (),
        native: bool = False,
        max_file_bytes: int = MAX_FILE_BYTES,
        kept_files: int = KEPT_FILES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """Nothing is written before `start`.

        Args:
            folder: where to; the run's TRACES folder.
            process: its name, for file names.
            sources: of the tasks it may run, kept beside the files so that sites can be given to tasks later.
            native: trace C stacks as well; slower and larger by a multiple.
            max_file_bytes: after which the next file is begun.
            kept_files: closed files that stay; older ones are removed.
            reserve_bytes: tracing stops before the disk has less than this.
        """
        self._folder = folder
        self._stem = file_stem(process)
        self._sources = list(sources)
        self._native = native
        self._max_file_bytes = max_file_bytes
        self._kept_files = kept_files
        self._reserve_bytes = reserve_bytes
        self._tracker: Any = None
        self._path = folder
        self._number = 0
        self._due_s = 0.0
        self.problem: str | None = None

    @property
    def is_active(self) -> bool:
        """Is a Tracker of ours running?"""
        return self._tracker is not None

    def start(self) -> bool:
        """Begin tracing; False when that is not possible (see `problem`)."""
        if self.is_active:
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._problem_file.unlink(missing_ok=True)
            sources = self._folder / f"sources-{self._stem}-{os.getpid()}.json"
            sources.write_text(json.dumps([asdict(source) for source in self._sources]))
        except OSError as error:
            return self._give_up(f"{self._folder} cannot be written to ({error.strerror or error})")
        return self._begin_file()

    def tick(self) -> None:
        """Between jobs: begin the next file when this one is full, give up when the disk is. Looks every 0.25
        s.
        """
        if self._tracker is None:
            return
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + CHECK_EVERY_S
        try:
            size = self._path.stat().st_size
            is_tight = self._free_bytes() < self._reserve_bytes
        except OSError as error:
            self.stop()
            self._give_up(f"{self._path} is no longer there ({error.strerror or error})")
            return
        if is_tight:
            self.stop()
            self._give_up(disk_full(self._folder, self._reserve_bytes))
        elif size >= self._max_file_bytes:
            self._end_file()
            self._remove_old()
            self._begin_file()

    def stop(self) -> None:
        """End tracing; the file is closed and compressed. May be called twice, and without `start`."""
        if self._tracker is not None:
            self._end_file()

    def _begin_file(self) -> bool:
        self._number += 1
        self._path = self._folder / f"{self._stem}.{os.getpid()}.{self._number:04d}.memray"
        try:
            memray = require_memray()
            if self._free_bytes() < self._reserve_bytes:
                return self._give_up(disk_full(self._folder, self._reserve_bytes))
            tracker = memray.Tracker(
                destination=memray.FileDestination(self._path, overwrite=True),
                native_traces=self._native,
                trace_python_allocators=True,  # else small objects are seen only as whole arenas
            )
            tracker.__enter__()
        except Exception as error:
            return self._cannot_begin(error)
        self._tracker = tracker
        return True

    def _cannot_begin(self, error: Exception) -> bool:
        if not isinstance(error, TracingError):
            self._path.unlink(missing_ok=True)
        if isinstance(error, RuntimeError | AssertionError):
            # memray allows one Tracker per process; it notices a second one in two ways
            reason = "another memray Tracker is active in this process; end it, or run without `memray run`"
        elif isinstance(error, OSError):
            reason = f"{self._path} cannot be written ({error.strerror or error})"
        else:
            reason = str(error) or type(error).__name__
        return self._give_up(reason)

    def _end_file(self) -> None:
        tracker, self._tracker = self._tracker, None
        gc.collect()  # what only waits for the collector must not look like growth
        try:
            tracker.__exit__(None, None, None)
        except Exception as error:
            self._give_up(f"memray could not end {self._path} ({error})")

    def _remove_old(self) -> None:
        files = sorted(self._folder.glob(f"{self._stem}.{os.getpid()}.*.memray"))
        for path in files[: max(len(files) - self._kept_files, 0)]:
            path.unlink(missing_ok=True)

    def _free_bytes(self) -> int:
        return free_bytes(self._folder)

    @property
    def _problem_file(self) -> Path:
        return self._folder / f"problem-{self._stem}-{os.getpid()}.txt"

    def _give_up(self, reason: str) -> bool:
        self.problem = (
            f"memory tracing of {self._stem} ({os.getpid()}) is off: {reason}. The worker goes on without it."
        )
        LOG.warning("%s", self.problem)
        with contextlib.suppress(OSError):  # as on a full disk: the log has it
            self._problem_file.write_text(self.problem)
        return False


def require_room(folder: Path) -> None:
    """Make a folder for traces, here rather than in each worker, so that whoever asks for them is told.

    Raises:
        TracingError: it cannot be made or written to, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (probe := folder / f"probe.{os.getpid()}").touch()
        probe.unlink()
    except OSError as error:
        raise TracingError(
            f"{folder} cannot be written to ({error.strerror or error}). Choose a folder that you may write to."
        ) from error
    if free_bytes(folder) < RESERVE_BYTES:
        raise TracingError(f"{disk_full(folder, RESERVE_BYTES)}. Free space, or choose a folder on another disk.")


def problems(folder: Path) -> list[str]:
    """Why workers gave up tracing into this folder, as they wrote it down."""
    return [path.read_text() for path in sorted(folder.glob("problem-*.txt"))]


def free_bytes(folder: Path) -> int:
    """What is left on its disk for this user."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def disk_full(folder: Path, reserve_bytes: int) -> str:
    """The reason, in words."""
    return f"less than {reserve_bytes / 2**20:.0f} MiB left on the disk of {folder}"


def file_stem(process: str) -> str:
    """The name of a process as part of a file's name."""
    return "".join(c if c.isalnum() else "-" for c in process)


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
