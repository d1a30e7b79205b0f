"""Asks each worker for its heap, reads the rest from /proc and the segment, and puts it in words."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from shmq import probes
from shmq.memcheck.soak import orders
from shmq.memcheck.usage.model import GroupMemory, Heap, Memory, ProducerMemory, WorkerMemory
from shmq.memory.columns import column
from shmq.memory.layout import PRODUCER, WORKER, WORKER_LIVE
from shmq.memory.segment import Segment, attach, segment_name
from shmq.transport.table import FREE, GROUP, GROUP_SHIFT, STATE

ANSWER_S = 1.0  # an idle worker answers within 0.1 s, a busy one after its job
_PAUSE_S = 0.01
_MIB = 1 << 20
_U = np.uint64


def memory(namespace: str | None = None, *, wait_s: float = ANSWER_S) -> Memory:
    """What the groups of a namespace use, and why.

    Args:
        namespace: None means SHMQ_NAMESPACE, else "default".
        wait_s: how long to wait for workers that are in a job; what they alone could tell is None then.

    Raises:
        NotRunning: no supervisor serves the namespace.
    """
    segment = attach(segment_name(namespace or os.environ.get("SHMQ_NAMESPACE") or "default"))
    try:
        return look(segment, wait_s=wait_s)
    finally:
        segment.close()


def look(segment: Segment, *, wait_s: float = ANSWER_S) -> Memory:
    """As `memory`, for a segment that is attached."""
    heaps = _heaps(segment, wait_s)
    words, used = column(segment, "words").copy(), _used_units(segment)
    states = words & _U(STATE)
    is_taken = states != FREE
    groups_of = ((words & _U(GROUP)) >> _U(GROUP_SHIFT)).astype(np.intp)
    tags = column(segment, "tags")
    slots = np.minimum(tags & _U(0xFFFFFFFF), _U(len(words) - 1)).astype(np.intp)
    pins = column(segment, "pins")
    shape, unit = segment.shape, segment.shape.unit_bytes
    rows = segment.rows("worker_rows")
    groups = []
    for index, name in enumerate(segment.group_names()):
        mine = [
            i for i, row in enumerate(rows) if row[WORKER["state"]] == WORKER_LIVE and row[WORKER["group"]] == index
        ]
        workers = tuple(_worker(i, rows[i][WORKER["pid"]], heaps) for i in mine)
        is_mine = used & ((groups_of[slots] == index) & (tags != 0) | np.isin(pins[:, 1], [i + 1 for i in mine]))
        taken, block_bytes = int((is_taken & (groups_of == index)).sum()), int(is_mine.sum()) * unit
        why = explain(workers, taken, block_bytes)
        groups.append(GroupMemory(name=name, workers=workers, slots=taken, block_bytes=block_bytes, why=why))
    return Memory(
        segment_bytes=segment.layout.total_bytes, slots=shape.slots, slots_used=int(is_taken.sum()),
        block_bytes=shape.units * unit, block_used_bytes=int(used.sum()) * unit,
        groups=tuple(groups), producers=tuple(_producers(segment, is_taken, used, slots)),
    )  # fmt: skip


def explain(workers: tuple[WorkerMemory, ...], slots: int, block_bytes: int) -> str:
    """Where a group's memory is, in words, with what can be done where something can."""
    heaps = [worker.heap for worker in workers if worker.heap is not None]
    if not heaps:
        parts = ["no worker" if not workers else f"{len(workers)} workers, all in long jobs: their heaps are not known"]
    else:
        used, slack = sum(heap.used for heap in heaps), sum(heap.slack for heap in heaps)
        frozen = sum(heap.gc_frozen for heap in heaps)
        tracked = sum(heap.gc_tracked for heap in heaps)
        parts = [
            f"{used / _MIB:.1f} MiB held by objects, {slack / _MIB:.1f} MiB free inside the allocators",
            "of both, pages from before the fork are shared, not private",
            f"gc {heaps[0].gc}, {tracked:,} objects to walk, {frozen:,} frozen before the fork",
        ]
        if sum(heap.malloc_slack for heap in heaps) > max(used, 32 * _MIB):
            parts.append("malloc keeps more than is in use: work in smaller pieces, or set max_worker_memory_bytes")
        for pool in {pool.factory: pool for heap in heaps for pool in heap.pools}.values():
            idle = sum(p.idle for heap in heaps for p in heap.pools if p.factory == pool.factory)
            parts.append(f"pool of {pool.factory}: {idle} idle, at most {pool.max_size} per worker")
    return "; ".join([*parts, f"{slots:,} slots", f"{block_bytes / _MIB:.1f} MiB of blocks"])


def _worker(row: int, pid: int, heaps: dict[int, Heap]) -> WorkerMemory:
    private, shared = probes.memory_of(pid)
    return WorkerMemory(
        row=row, pid=pid, private=private, private_peak=max(private, probes.peak_of(pid) - shared), heap=heaps.get(pid)
    )


def _used_units(segment: Segment) -> NDArray[np.bool_]:
    """Units that a live job is tagged with or a reader pins."""
    tags, words = column(segment, "tags").copy(), column(segment, "words")
    slots = np.minimum(tags & _U(0xFFFFFFFF), _U(len(words) - 1))
    used: NDArray[np.bool_] = (tags != 0) & ((words[slots] >> _U(32)) == (tags >> _U(32)))
    return used | column(segment, "pins").any(axis=1)


def _producers(
    segment: Segment, is_taken: NDArray[np.bool_], used: NDArray[np.bool_], slots: NDArray[np.intp]
) -> Iterator[ProducerMemory]:
    each, unit = segment.shape.slots_per_producer, segment.shape.unit_bytes
    tags, pins = column(segment, "tags"), column(segment, "pins")[:, 0]
    for row, words in enumerate(segment.rows("producer_rows")):
        taken = int(is_taken[row * each : (row + 1) * each].sum())
        pinned = pins == row + 1
        blocks = used & ((slots // each == row) & (tags != 0) | pinned)
        if taken or words[PRODUCER["pid"]] or blocks.any():
            yield ProducerMemory(
                row=row, pid=words[PRODUCER["pid"]], slots=taken, block_bytes=int(blocks.sum()) * unit,
                pinned_bytes=int(pinned.sum()) * unit,
            )  # fmt: skip


def _heaps(segment: Segment, wait_s: float) -> dict[int, Heap]:
    """By pid; of the workers that answered in time."""
    found: dict[int, Heap] = {}
    with _answers() as folder:
        until_s = time.monotonic() + wait_s
        order = orders.Order(str(folder), until_s)
        pids = {pid for group in segment.group_names() for pid in orders.give(segment, group, order, orders.HEAP)}
        while len(found) < len(pids) and time.monotonic() < until_s:
            time.sleep(_PAUSE_S)
            for path in folder.glob("heap-*.json"):
                found[int(path.stem.partition("-")[2])] = msgspec.json.decode(path.read_bytes(), type=Heap)
        for group in segment.group_names():
            orders.forget(segment, group, orders.HEAP)
    return found


@contextmanager
def _answers() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="shmq-memory-") as folder:
        yield Path(folder)
