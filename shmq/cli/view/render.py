"""A snapshot as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmq.cli.text import NOTHING, number, printable, seconds, size, table

if TYPE_CHECKING:
    from shmq.observe.model import Distribution, GroupState, ProducerState, Snapshot, WorkerState


def render(snapshot: Snapshot, namespace: str, *, verbose: bool) -> str:
    """Header, groups, sums of workers and producers; each worker and producer when verbose."""
    parts = [_header(snapshot, namespace), _groups(snapshot.groups)]
    if verbose:
        parts += [_reasons(snapshot.groups), _workers(snapshot.workers), _producers(snapshot.producers)]
    return "\n\n".join(part for part in parts if part)


def _header(snapshot: Snapshot, namespace: str) -> str:
    memory, producers = snapshot.memory, snapshot.producers
    alive = sum(producer.alive for producer in producers)
    supervisor = f"pid {snapshot.supervisor_pid}" if snapshot.supervisor_alive else "NOT RUNNING"
    warnings = [
        text
        for is_so, text in (
            (snapshot.detached, "DETACHED: the segment's name was removed"),
            (snapshot.draining, "draining"),
            (bool(memory.damaged_words), f"{memory.damaged_words} DAMAGED job words"),
        )
        if is_so
    ]
    left_behind = f" and {len(producers) - alive} left behind" if alive < len(producers) else ""
    lines = [
        f"shmq {namespace}: supervisor {supervisor}, epoch {snapshot.epoch}, segment {seconds(snapshot.age_s)} old",
        ", ".join((
            f"slots {number(memory.slots_used)} of {number(memory.slots)}",
            f"blocks {size(memory.block_used_bytes)} of {size(memory.block_bytes)}",
            f"producers {alive}{left_behind}",
        )),
    ]  # fmt: skip
    return "\n".join([*lines, *warnings])


def _groups(groups: tuple[GroupState, ...]) -> str:
    head = [
        "group", "workers", ">waiting", ">running", ">scheduled", ">done", ">failed", ">retried", ">jobs/s",
        "wait p50 / p95 / p99", "run p50 / p95 / p99", "",
    ]  # fmt: skip
    return table(head, [_group(group) for group in groups])


def _group(group: GroupState) -> list[str]:
    workers = group.workers
    in_jobs = workers.busy + workers.blocked + workers.waiting
    notes = [
        text
        for is_so, text in (
            (group.paused, "PAUSED"),
            (group.limits.circuit != "closed", f"circuit {group.limits.circuit}"),
            (group.limits.rate_per_s is not None, f"limit {group.limits.rate_per_s or 0:g}/s"),
            (workers.starting > 0, f"{workers.starting} starting"),
            (workers.blocked > 0, f"{workers.blocked} blocked"),
            (workers.waiting > 0, f"{workers.waiting} waiting for room for results"),
            (group.workers_crashed > 0, f"{group.workers_crashed} crashed"),
        )
        if is_so
    ]
    return [
        group.name,
        f"{workers.live} of {group.min_workers}-{group.max_workers}, {in_jobs} busy",
        number(group.queued + group.leased),
        number(group.running),
        number(group.scheduled),
        number(group.done),
        number(group.failed),
        number(group.retried),
        number(group.done_per_s),
        _times(group.wait),
        _times(group.service),
        "; ".join(notes),
    ]


def _reasons(groups: tuple[GroupState, ...]) -> str:
    """Why the planner wants so many workers of each group."""
    return "\n".join(f"{group.name} wants {printable(group.reason)}" for group in groups if group.reason)


def _times(times: Distribution) -> str:
    if not times.count:
        return NOTHING
    return " / ".join(seconds(value) for value in (times.p50_s, times.p95_s, times.p99_s))


def _workers(workers: tuple[WorkerState, ...]) -> str:
    head = ["worker", ">pid", "group", "state", ">busy", ">jobs", ">age", "task", "job"]
    rows = [
        [
            str(worker.row),
            str(worker.pid or NOTHING),
            worker.group,
            "stopped" if worker.is_stopped else _doing(worker),
            NOTHING if worker.busy_share is None else f"{worker.busy_share:.0%}",
            number(worker.ended),
            seconds(worker.age_s),
            worker.task,
            worker.job + (f" (+{worker.running - 1})" if worker.running > 1 else ""),
        ]
        for worker in workers
    ]
    return table(head, rows) if rows else ""


def _doing(worker: WorkerState) -> str:
    return f"waiting for {size(worker.wants_bytes)}" if worker.state == "waiting" else worker.state


def _producers(producers: tuple[ProducerState, ...]) -> str:
    head = ["producer", ">pid", "alive", ">unfinished", ">unread", ">free"]
    rows = [
        [
            str(producer.row),
            str(producer.pid or NOTHING),
            "yes" if producer.alive else "no",
            number(producer.waiting),
            number(producer.unread),
            number(producer.free),
        ]
        for producer in producers
    ]
    return table(head, rows) if rows else ""
