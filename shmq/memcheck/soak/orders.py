"""Orders to running workers: "trace your memory with memray for so long, into that folder", "tell of your heap".

    STATE_DIR/watch/GROUP.json, -heap.GROUP.json  ──SIGUSR2──▶ each live worker of the group reads it between two jobs

A worker that is forked while the order holds finds it by itself. The order ends by its own time: whoever gave it
may have died.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from shmq.clock import start_ticks
from shmq.errors import TracingError
from shmq.memory.layout import WORKER, WORKER_LIVE
from shmq.memory.segment import Segment

ORDERS = "watch"  # as in worker.watching
TRACE, HEAP = "", "-heap."  # what is ordered, as it begins the file's name: no group's name begins with "-"


@dataclass(frozen=True)
class Order:
    """`until_s`: monotonic."""

    folder: str
    until_s: float
    native: bool = False

    @property
    def holds(self) -> bool:
        """Not over yet?"""
        return time.monotonic() < self.until_s


def read(state_dir: Path, group: str, what: str = TRACE) -> Order | None:
    """The order that holds for a group's workers now; a damaged file is none."""
    try:
        order = Order(**json.loads((state_dir / ORDERS / f"{what}{group}.json").read_text()))
        return order if order.holds else None
    except (OSError, ValueError, TypeError):
        return None


def give(segment: Segment, group: str, order: Order, what: str = TRACE) -> list[int]:
    """Write the order for a group and tell its live workers; their pids.

    Raises:
        TracingError: the order cannot be written, or the group is traced already: a worker has one memray only.
    """
    folder = segment.state_dir / ORDERS
    other = read(segment.state_dir, group) if what == TRACE else None
    if other is not None:
        raise TracingError(
            f"workers of {group!r} are traced already, into {other.folder}, for another "
            f"{max(other.until_s - time.monotonic(), 0):.0f} s. Wait, or end that with Ctrl-C (if it was killed, by "
            f"removing {folder / f'{group}.json'})."
        )
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        new = folder / f"{group}.{os.getpid()}.new"
        new.write_text(json.dumps(asdict(order)))
        new.replace(folder / f"{what}{group}.json")
    except OSError as error:
        raise TracingError(f"{folder}: cannot be written to ({error}). Free space, or look at its owner.") from error
    return [pid for pid, ticks in _live(segment, group) if _tell(pid, ticks)]


def forget(segment: Segment, group: str, what: str = TRACE) -> None:
    """Remove an order that is over."""
    (segment.state_dir / ORDERS / f"{what}{group}.json").unlink(missing_ok=True)


def withdraw(segment: Segment, group: str) -> None:
    """End the tracing of a group's workers before its time."""
    forget(segment, group)
    for pid, ticks in _live(segment, group):
        _tell(pid, ticks)


def _live(segment: Segment, group: str) -> list[tuple[int, int]]:
    """(pid, start ticks) of workers that have their handler: the row says LIVE after that."""
    index = segment.group_names().index(group)
    return [
        (row[WORKER["pid"]], row[WORKER["ticks"]])
        for row in segment.rows("worker_rows")
        if row[WORKER["state"]] == WORKER_LIVE and row[WORKER["group"]] == index
    ]


def _tell(pid: int, ticks: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if start_ticks(pid) != ticks:  # asked after opening: the pid stays its own
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGUSR2)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True
