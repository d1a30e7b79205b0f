"""What is tidied each second: rows of dead producers, results nobody reads, cancelled jobs nobody claims."""

from __future__ import annotations

import logging

from shmq.memory import locks
from shmq.memory.layout import GROUP_CONTROL, PRODUCER
from shmq.memory.segment import Segment
from shmq.transport.membership import is_holder_alive, take_over
from shmq.transport.redeliver import Redeliverer

_log = logging.getLogger("shmq.recovery")


def tidy(segment: Segment, lock_file: locks.LockFile, redeliverer: Redeliverer) -> None:
    """All of it, once."""
    for index, row in enumerate(segment.rows("producer_rows")):
        if row[PRODUCER["pid"]] or redeliverer.is_used(index):
            _tidy_row(segment, lock_file, redeliverer, index, row)
    for group, control in enumerate(segment.rows("group_control")):
        if control[GROUP_CONTROL["paused"]] or not control[GROUP_CONTROL["workers"]]:
            redeliverer.sweep_cancelled(group)


def _tidy_row(
    segment: Segment, lock_file: locks.LockFile, redeliverer: Redeliverer, index: int, row: memoryview
) -> None:
    """Take over a row whose producer is proven dead; free what ended in one that nobody holds."""
    byte = locks.producer_byte(index)
    if not lock_file.try_acquire(byte):
        return
    try:
        if is_holder_alive(segment, index):
            return
        if row[PRODUCER["pid"]]:
            _log.info("producer row %d: its process (pid %d) is gone, taken over", index, row[PRODUCER["pid"]])
            take_over(segment, index)
        redeliverer.free_ended(index)
    finally:
        lock_file.release(byte)
