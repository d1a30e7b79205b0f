"""The door to memray: the only module that imports it, and only when asked to.

    WorkerTrace    in the worker: a Tracker from after the fork to before the exit, in bounded files

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
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from shmq.errors import TracingError
from shmq.memcheck.attribution import Source

LOG = logging.getLogger("shmq.memcheck")
MAX_FILE_BYTES = 64 * 2**20  # some 10 million events: a few seconds to evaluate
KEPT_FILES = 2  # closed and compressed, beside the one that is written
RESERVE_BYTES = 256 * 2**20  # left free on the disk
CHECK_EVERY_S = 0.25


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
