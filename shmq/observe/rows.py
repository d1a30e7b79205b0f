"""The part of a snapshot about processes: worker rows and producer rows."""

from __future__ import annotations

import struct

import numpy as np

from shmq.clock import NS
from shmq.errors import ShmqError
from shmq.memory.columns import column
from shmq.memory.layout import PRODUCER, WORKER, WORKER_DEAD, WORKER_LIVE, WORKER_STARTING
from shmq.memory.segment import Segment
from shmq.observe.model import ProducerState, Snapshot, WorkerState
from shmq.observe.reading import age_s, checked, checked_pid, is_running, is_stopped
from shmq.tasks import registry
from shmq.transport.table import (
    DONE,
    FREE,
    OWNER,
    OWNER_SHIFT,
    RUNNING,
    STATE,
    generation_of,
    owner_of,
    state_of,
)


def read_workers(segment: Segment, now_ns: int, previous: Snapshot | None) -> tuple[WorkerState, ...]:
    """Every worker row that is not free."""
    rows = checked(segment, "worker_rows").tolist()
    key_of = struct.Struct("<Q").unpack_from  # the first word of a job's header: a hash, so no value is absurd
    payload, stride = segment.view("payload"), segment.shape.slot_bytes
    groups = segment.group_names()
    try:
        tasks = {info.key: name for name, info in registry.read(segment.state_dir).items()}
    except ShmqError:  # damaged: who looks for what is wrong sees the rest all the more
        tasks = {}
    running = _running_by_owner(segment)
    before = {(worker.row, worker.pid): worker for worker in previous.workers} if previous else {}
    elapsed_s = (now_ns - previous.taken_ns) / NS if previous else 0.0
    found = []
    for index, row in enumerate(rows):
        word = {name: row[i] for name, i in WORKER.items()}
        if word["state"] not in {WORKER_STARTING, WORKER_LIVE, WORKER_DEAD} or word["group"] >= len(groups):
            continue
        pid = checked_pid(word["pid"])
        is_in_job = _is_in_job(segment, word["job"], index)
        state = _state(word, running[index])
        (key,) = key_of(payload, (word["job"] & 0xFFFFFFFF) * stride) if is_in_job else (0,)
        found.append(
            WorkerState(
                row=index,
                pid=pid,
                group=groups[word["group"]],
                state=state,
                running=running[index],
                task=tasks.get(key, f"{key:#x}") if is_in_job else "",
                wants_bytes=word["wants_bytes"] if state == "waiting" else 0,
                job=f"{word['job'] >> 32:x}-{word['job'] & 0xFFFFFFFF:x}" if is_in_job else "",
                ended=word["done"],
                age_s=age_s(word["started_ns"], now_ns),
                heartbeat_s=age_s(word["heartbeat_ns"], now_ns),
                overdue_s=(age_s(word["deadline_ns"], now_ns) or 0.0) if is_in_job else 0.0,
                is_stopped=is_stopped(pid),
                busy_s=word["busy_ns"] / NS,
                busy_share=_busy_share(word["busy_ns"], before.get((index, pid)), elapsed_s),
            )
        )
    return tuple(found)


def read_producers(segment: Segment) -> tuple[ProducerState, ...]:
    """Every producer row that somebody holds, or that still has jobs."""
    rows = checked(segment, "producer_rows")
    states = (column(segment, "words").reshape(len(rows), -1) & np.uint64(STATE)).astype(np.uint8)
    free, ended = (states == FREE).sum(axis=1).tolist(), (states >= DONE).sum(axis=1).tolist()
    found = []
    for index, row in enumerate(rows.tolist()):
        pid = checked_pid(row[PRODUCER["pid"]])
        if not pid and free[index] == states.shape[1]:
            continue
        found.append(
            ProducerState(
                row=index,
                pid=pid,
                alive=is_running(pid, row[PRODUCER["ticks"]]),
                free=free[index],
                waiting=states.shape[1] - free[index] - ended[index],
                unread=ended[index],
            )
        )
    return tuple(found)


def _running_by_owner(segment: Segment) -> list[int]:
    """Jobs that each worker row runs at this moment; an async worker runs many."""
    words = column(segment, "words")
    owners = (words[words & np.uint64(STATE) == RUNNING] & np.uint64(OWNER)) >> np.uint64(OWNER_SHIFT)
    counts: list[int] = np.bincount(owners.astype(np.intp), minlength=segment.shape.workers).tolist()
    return counts


def _is_in_job(segment: Segment, job: int, row: int) -> bool:
    """Does the job word say that the worker of `row` runs this job? Its row names the last one, too."""
    slot, generation = job & 0xFFFFFFFF, job >> 32
    if not generation or slot >= segment.shape.slots:
        return False
    word = segment.view("words")[slot]
    return (state_of(word), owner_of(word), generation_of(word)) == (RUNNING, row, generation)


def _state(word: dict[str, int], running: int) -> str:
    if word["state"] == WORKER_STARTING:
        return "starting"
    if word["state"] == WORKER_DEAD:
        return "dead"
    if word["blocked"]:
        return "blocked"
    if word["wants_bytes"]:
        return "waiting"
    return "busy" if running else "idle"


def _busy_share(busy_ns: int, before: WorkerState | None, elapsed_s: float) -> float | None:
    if before is None or elapsed_s <= 0:
        return None
    return min(max((busy_ns / NS - before.busy_s) / elapsed_s, 0.0), 1.0)
