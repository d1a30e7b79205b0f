"""Why a job has not ended yet, and what to do: the rest of the message of a wait that gave up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq.clock import NS, now_ns, start_ticks
from shmq.memory.layout import GROUP_CONTROL
from shmq.transport.table import DONE, GENERATION_SHIFT, LEASED, RUNNING, SCHEDULED, STATE, group_of

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.memory.segment import Segment


def why_late(client: Client, job: Job[Any]) -> str:
    """The likely cause in a sentence or two; "" when it has ended just now."""
    segment, word = client.segment, client._words[job._slot]
    groups, state = client._registry.groups, word & STATE
    if word >> GENERATION_SHIFT != job._generation or state >= DONE or group_of(word) >= len(groups):
        return ""
    if not _is_served(segment):
        pid = segment.header("supervisor_pid")
        return (
            f"No supervisor runs ({f'pid {pid} is gone' if pid else 'it was stopped'}): accepted jobs are safe, but "
            "wait. Start it again: shmq supervise CONFIG."
        )
    if state == RUNNING:
        return "A worker runs it: wait longer, or give the task a `timeout`."
    if state == LEASED:
        return "A worker has claimed it and runs another job before it: wait longer, or look at `shmq status`."
    if state == SCHEDULED:
        due_s = (segment.view("dues")[job._slot] - now_ns()) / NS
        return f"It is delayed, or is to be tried again, and due in {max(due_s, 0.0):.3g} s."
    return _of_group(segment, group_of(word), groups[group_of(word)])


def _is_served(segment: Segment) -> bool:
    pid, ticks = segment.header("supervisor_pid"), segment.header("supervisor_ticks")
    started = start_ticks(pid) if 0 < pid < 1 << 31 else 0
    return started != 0 and ticks in (0, started)


def _of_group(segment: Segment, index: int, name: str) -> str:
    """Why nobody claims it."""
    control = segment.rows("group_control")[index]
    workers = control[GROUP_CONTROL["workers"]]
    if control[GROUP_CONTROL["paused"]]:
        return f"Group {name!r} is paused: shmq resume {name}."
    if not workers:
        return f"Group {name!r} has no worker: if none comes, the supervisor's log says why."
    return f"No worker of {workers} in group {name!r} is free for it: wait longer, or add workers; see `shmq status`."
