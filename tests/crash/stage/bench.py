"""A worker's parts put together as `worker.boot` does it, without a process and signals of its own."""

from __future__ import annotations

import os
from typing import Any

from shmq.clock import start_ticks
from shmq.config.model import Group
from shmq.memory import doorbell, locks
from shmq.memory.blocks import WORKER_PIN, BlockPool
from shmq.memory.doorbell import SemaphoreBell
from shmq.memory.fence import new_fence
from shmq.memory.layout import WORD, WORKER, WORKER_LIVE, WORKER_WORDS
from shmq.memory.segment import Segment
from shmq.tasks.task import Task
from shmq.transport.claim import Claimer
from shmq.worker.execution import Executor
from shmq.worker.limiting import TaskLimits
from shmq.worker.loop import Loop
from shmq.worker.seat import Seat


class NoTimer:
    """Jobs of the stage are quick: nothing to limit."""

    is_armed = True

    def arm(self, delay_s: float = 0.0) -> None:
        """Nothing."""

    def begin(self, began_ns: int, *, keeps_others: bool) -> None:
        """Nothing."""


class Bench:
    """Claims and runs jobs of one group for one worker row."""

    def __init__(
        self, segment: Segment, lock_file: locks.LockFile, tasks: dict[int, Task[Any, Any]], index: int, group: int,
        settings: tuple[str, Group],
    ) -> None:  # fmt: skip
        self.segment, self.index = segment, index
        segment.set_text("worker_bells", doorbell.new_name(segment.path.name), index)
        self.bell = SemaphoreBell(segment.text("worker_bells", index), create=True)
        self.seat = Seat(segment, index, group, settings[0], settings[1])
        row = self.seat.row
        row[:] = memoryview(bytes(8 * WORKER_WORDS)).cast(WORD)
        row[WORKER["group"]], row[WORKER["pid"]] = group, os.getpid()
        row[WORKER["ticks"]] = start_ticks(os.getpid())
        row[WORKER["state"]] = WORKER_LIVE
        fence = new_fence()
        self.claimer = Claimer(segment, lock_file, group, index)
        blocks = BlockPool(segment, lock_file, WORKER_PIN, index)
        self.executor = Executor(self.seat, tasks, blocks, NoTimer().arm, self.claimer.has_work)
        limits = TaskLimits(self.seat, lock_file, (), tasks)
        self.loop = Loop(self.seat, self.claimer, self.executor, NoTimer(), self.bell, fence, limits)  # type: ignore[arg-type]
        self.loop._collects_between = False

    def claim(self, most: int = 64) -> tuple[list[int], list[int]]:
        """Lease a batch and put it on the seat."""
        slots, words = self.claimer.claim(self.claimer.lanes_with_work(), most)
        self.seat.batch_slots, self.seat.batch_words, self.seat.position = slots, words, 0
        return slots, words

    def run_all(self) -> None:
        """Until the lanes are empty."""
        for _ in range(1000):
            lanes = self.claimer.lanes_with_work()
            if not lanes:
                return
            self.loop._run_batch(lanes)
        raise AssertionError("a lane never becomes empty")

    def leave(self) -> None:
        """As a drained worker whose row is free again."""
        self.bell.unlink()
        self.bell.close()
        self.segment.set_text("worker_bells", "", self.index)
        self.seat.row[:] = memoryview(bytes(8 * WORKER_WORDS)).cast(WORD)
