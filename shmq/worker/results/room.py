"""A job has run and no block is free for its result: it waits, says so, and asks whoever holds blocks.

Nothing is lost and nothing fails for want of memory. The wait ends when somebody reads or drops results, or with the
job: at its time limit, or when it was asked to stop. Until then the worker's row says how many bytes it wants, and
every producer that waits for something is rung: it then moves what has ended for it out of the blocks.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import numpy as np

from shmq.clock import now_ns
from shmq.errors import JobCancelled, QueueFull
from shmq.memory.blocks import BlockPool
from shmq.memory.columns import column
from shmq.memory.doorbell import RESCUE_S
from shmq.memory.fence import new_fence
from shmq.memory.layout import PRODUCER, WORKER
from shmq.memory.segment import Segment
from shmq.tasks import current
from shmq.transport.table import DONE, GENERATION_SHIFT, STATE
from shmq.worker.seat import Seat

_log = logging.getLogger("shmq.worker")
WANTS = WORKER["wants_bytes"]
_SAY_AFTER_S, _SAY_EVERY_S = 1.0, 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02
_say_again = 0.0  # monotonic; one worker with a hundred such jobs says it once


def ask(seat: Seat, fence: Callable[[], object]) -> None:
    """Ring all who may hold ended results; this process may be a producer, too."""
    current.make_room()
    fence()  # SYNC POINT: doorbell — what we want is visible before we look who waits
    for row in range(seat.segment.shape.producers):
        seat.bells.notify_producer(row)


class WaitForRoom:
    """One job's wait. Main thread only: the seat's row and lease are its.

    Args:
        task: its name.
        wanted_bytes: of blocks, as far as is known.
        deadline_ns: when the job's time limit ends the wait; 0 for none.
    """

    def __init__(
        self, seat: Seat, blocks: BlockPool, slot: int, running: int, task: str, wanted_bytes: int, deadline_ns: int
    ) -> None:  # fmt: skip
        self._seat, self._blocks = seat, blocks
        self._slot, self._generation = slot, running >> GENERATION_SHIFT
        self._task, self._wanted_bytes = task, wanted_bytes
        self._deadline_ns = deadline_ns
        self._since = time.monotonic()
        self._ask_at = 0.0
        self._fence = new_fence()
        self._pause_s = _FIRST_PAUSE_S
        seat.row[WANTS] += wanted_bytes
        seat.give_back_rest()

    def pause_s(self) -> float:
        """Seconds until the next try.

        Raises:
            QueueFull: the job's time limit is over. JobCancelled: nobody wants the result any more.
        """
        now = time.monotonic()
        if self._seat.is_cancelled(self._slot, self._generation):
            raise JobCancelled(f"{self._task} was cancelled while its result waited for a free block")
        if self._deadline_ns and now_ns() >= self._deadline_ns:
            raise QueueFull(
                f"{self._task} has run, but within its time limit no block was free for its result: {self._state()}.\n"
                "Read or drop results sooner, raise [memory] block_budget_bytes, or raise the time limit."
            )
        if now >= self._ask_at:
            self._ask_at = now + RESCUE_S
            ask(self._seat, self._fence)
            self._say(now)
        self._pause_s = min(1.5 * self._pause_s, _LONGEST_PAUSE_S)
        return self._pause_s * random.uniform(0.5, 1.0)  # two who hold a half each must not meet again and again

    def end(self) -> None:
        """The result has its place, or will not get one."""
        self._seat.row[WANTS] -= self._wanted_bytes

    def _say(self, now: float) -> None:
        global _say_again
        if now - self._since >= _SAY_AFTER_S and now >= _say_again:
            _say_again = now + _SAY_EVERY_S
            _log.warning(
                "group %s: %s has run; its result waits for a free block: %s. Read or drop results sooner, or raise "
                "[memory] block_budget_bytes.",
                self._seat.group_name, self._task, self._state(),
            )  # fmt: skip

    def _state(self) -> str:
        holders = ", ".join(f"pid {pid} ({count})" for pid, count in _unread(self._seat.segment))
        return (
            f"it takes {self._wanted_bytes} bytes, {self._blocks.usage()}"
            + (f"; unread results by producer: {holders}" if holders else "")
        )  # fmt: skip


def _unread(segment: Segment) -> list[tuple[int, int]]:
    """(pid, results not read yet) of producers that have any, most first."""
    states = (column(segment, "words").reshape(segment.shape.producers, -1) & np.uint64(STATE)).astype(np.uint8)
    counts = (states >= DONE).sum(axis=1).tolist()
    rows = segment.rows("producer_rows")
    found = [(int(rows[index][PRODUCER["pid"]]), count) for index, count in enumerate(counts) if count]
    return sorted(found, key=lambda holder: -holder[1])[:5]
