"""What tasks print: whole lines to the supervisor's log, each with worker, task and job id."""

from __future__ import annotations

import io
import os
import sys
import threading
from typing import TYPE_CHECKING

from shmq.tasks import current

if TYPE_CHECKING:
    from shmq.worker.seat import Seat

_CONTROL = {c: None for c in range(32) if c not in (9, 10)} | {127: None}
_LONGEST = 4000  # one write of at most PIPE_BUF bytes is not torn by other writers


class LineWriter(io.TextIOBase):
    """A text stream that hands on complete lines, prefixed, control characters removed."""

    def __init__(self, fd: int, seat: Seat) -> None:
        self._fd = fd
        self._seat = seat
        self._lock = threading.RLock()
        self._rest = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keep what is not yet a whole line; write the rest."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._emit(line)
            if len(self._rest) > _LONGEST:
                self._emit(self._rest)
                self._rest = ""
        return len(text)

    def flush(self) -> None:
        """Nothing is held back but an unfinished line."""

    def finish(self) -> None:
        """Write the unfinished line, at the end of the worker."""
        with self._lock:
            if self._rest:
                self._emit(self._rest)
                self._rest = ""

    def _emit(self, line: str) -> None:
        job = current.current_job()
        where = f"{job.task} {job.id}" if job is not None else "-"
        prefix = f"{self._seat.group_name}/{self._seat.index} {where} | "
        data = (prefix + line.translate(_CONTROL))[:_LONGEST] + "\n"
        os.write(self._fd, data.encode("utf-8", "backslashreplace"))

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


def redirect(target: str, seat: Seat) -> LineWriter | None:
    """Send stdout and stderr of the task where the configuration says.

    Args:
        target: "inherit" leaves them alone, "log" prefixes lines on stderr, else a file to append to.
    """
    if target == "inherit":
        return None
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    fd = 2 if target == "log" else os.open(target, flags, 0o600)
    writer = LineWriter(fd, seat)
    sys.stdout = sys.stderr = writer
    return writer
