"""Reads the whole segment into a `Snapshot`, without a lock and without writing a byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shmq.clock import now_ns
from shmq.memory.blocks import SLOT_OF_TAG
from shmq.memory.columns import column
from shmq.memory.segment import Segment
from shmq.observe.groups import read_groups
from shmq.observe.model import MemoryState, Snapshot
from shmq.observe.reading import DAMAGED, age_s, checked_pid, count_jobs, is_running
from shmq.observe.rows import read_producers, read_workers
from shmq.transport.table import FREE


def take(segment: Segment, previous: Snapshot | None = None) -> Snapshot:
    """The state of everything at this moment.

    Args:
        previous: an earlier snapshot of the same segment; with it rates and busy shares are known.
    """
    now = now_ns()
    jobs = count_jobs(segment)
    workers = read_workers(segment, now, previous)
    supervisor, recovery, planner = (
        checked_pid(segment.header(f"{who}_pid")) for who in ("supervisor", "recovery", "planner")
    )
    return Snapshot(
        taken_ns=now,
        epoch=segment.header("epoch"),
        supervisor_pid=supervisor,
        supervisor_alive=is_running(supervisor, segment.header("supervisor_ticks")),
        recovery_pid=recovery,
        recovery_alive=is_running(recovery),
        planner_pid=planner,
        planner_alive=is_running(planner),
        age_s=age_s(segment.header("created_ns"), now) or 0.0,
        detached=bool(segment.header("detached")) or not segment.is_linked(),
        draining=bool(segment.header("draining")),
        state_dir=str(segment.state_dir),
        groups=read_groups(segment, now, jobs, workers, previous),
        workers=workers,
        producers=read_producers(segment),
        memory=_memory(segment, jobs),
    )


def _memory(segment: Segment, jobs: NDArray[np.intp]) -> MemoryState:
    shape = segment.shape
    return MemoryState(
        segment_bytes=segment.layout.total_bytes,
        slots=shape.slots,
        slots_used=shape.slots - int(jobs[:, FREE].sum()),
        block_bytes=shape.units * shape.unit_bytes,
        block_used_bytes=_used_units(segment) * shape.unit_bytes,
        damaged_words=int(jobs[:, DAMAGED].sum()),
    )


def _used_units(segment: Segment) -> int:
    """Units that a live job is tagged with or a reader pins; without either a unit is free."""
    tags, words = column(segment, "tags").copy(), column(segment, "words")
    slots = np.minimum(tags & np.uint64(SLOT_OF_TAG), np.uint64(len(words) - 1))
    is_used = (tags != 0) & ((words[slots] >> np.uint64(32)) == (tags >> np.uint64(32)))
    is_used |= column(segment, "pins").any(axis=1)
    return int(is_used.sum())
