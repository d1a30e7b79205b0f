"""What tasks print: whole lines to the supervisor's log, each with worker, task and job id."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from shmq.tasks import current
from shmq.tasks.current import CurrentJob

if TYPE_CHECKING:
    from shmq.worker.seat import Seat

_CONTROL = {c: None for c in range(32) if c not in (9, 10)} | {127: None}
_LEAST_FD = 3  # not among those that programs take for stdio
_LONGEST = 4000  # one write of at most PIPE_BUF bytes is not torn by other writers


class LineWriter(io.TextIOBase):
    """A text stream that hands on complete lines, with their job, control characters removed.

    Args:
        as_json: an object per line, as the supervisor's own lines are, instead of a prefix.
    """

    def __init__(self, fd: int, seat: Seat, *, as_json: bool = False) -> None:
        self._fd = fd
        self._seat = seat
        self._as_json = as_json
        self._lock = threading.RLock()
        self._rest = ""
        self._rest_of: CurrentJob | None = None  # the job that wrote the unfinished line

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keep what is not yet a whole line; write the rest."""
        job = current.current_job()
        with self._lock:
            if self._rest and job != self._rest_of:  # another job's line begins
                self.finish()
            *lines, self._rest = (self._rest + text).split("\n")
            self._rest_of = job
            for line in lines:
                self._emit(line, job)
            if len(self._rest) > _LONGEST:
                self.finish()
        return len(text)

    def close(self) -> None:
        """Stay open: a job that closes stdout must not take it from the jobs after it."""

    def flush(self) -> None:
        """Nothing is held back but an unfinished line."""

    def finish(self) -> None:
        """Write the unfinished line: another job writes, or the worker ends."""
        with self._lock:
            if self._rest:
                self._emit(self._rest, self._rest_of)
                self._rest = ""

    def _emit(self, line: str, job: CurrentJob | None) -> None:
        line = line.translate(_CONTROL)
        if self._as_json:
            entry = {
                "time": round(time.time(), 6), "level": "info", "logger": "task", "message": line[:_LONGEST],
                "pid": os.getpid(), "group": self._seat.group_name, "worker": self._seat.index,
                "task": job.task if job is not None else None, "job": job.id if job is not None else None,
            }  # fmt: skip
            data = json.dumps(entry)
        else:
            where = f"{job.task} {job.id}" if job is not None else "-"
            data = f"{self._seat.group_name}/{self._seat.index} {where} | {line}"[:_LONGEST]
        with contextlib.suppress(OSError):  # closed by a task, or the disk is full: no reason for a job to fail
            os.write(self._fd, f"{data}\n".encode("utf-8", "backslashreplace"))

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """For code that asks."""
        return "utf-8"

    def isatty(self) -> bool:
        """Never."""
        return False

    def fileno(self) -> int:
        """The log's descriptor, for subprocesses."""
        return self._fd


def redirect(target: str, seat: Seat, log_format: str) -> LineWriter | None:
    """Send stdout and stderr of the task where the configuration says.

    Args:
        target: "inherit" leaves them alone, "log" prefixes lines on stderr, else a file to append to.
        log_format: of the supervisor, which lines on stderr follow.
    """
    if target == "inherit":
        for stream in (sys.stdout, sys.stderr):
            stream.close = stream.flush  # type: ignore[method-assign]  # as LineWriter: they are not one job's to close
        return None
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # a descriptor of its own: after a task's os.close(2), the next file that is opened would get the lines
    fd = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, _LEAST_FD) if target == "log" else os.open(target, flags, 0o600)
    writer = LineWriter(fd, seat, as_json=target == "log" and log_format == "json")
    _redirect_handlers((sys.stdout, sys.stderr), writer)
    sys.stdout = sys.stderr = writer
    return writer


def _redirect_handlers(streams: tuple[object, ...], writer: LineWriter) -> None:
    """What a task module set up when it was imported, `logging.basicConfig` most often, wrote to these streams."""
    for logger in (logging.getLogger(), *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in streams):
                handler.setStream(writer)
