"""`shmq tasks --explain`: to which group jobs of a task go, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shmq.cli.text import table
from shmq.memory.layout import TASK_ROUTE

if TYPE_CHECKING:
    from shmq.memory.segment import Segment
    from shmq.tasks.registry import TaskInfo


@dataclass(frozen=True)
class Way:
    """Jobs of `task` with at least `min_payload_bytes` of arguments go to `group`; the first that fits counts."""

    task: str
    group: str
    min_payload_bytes: int
    why: str


def ways(segment: Segment, info: TaskInfo) -> list[Way]:
    """All ways of one task's jobs, in the order in which they are tried."""
    found = [
        Way(info.name, rule.group, rule.min_payload_bytes, f"routes[{rule.number}]: task {rule.task!r}")
        for rule in info.rules
    ]
    if not found or found[-1].min_payload_bytes:
        found.append(_learned(segment, info) if info.is_auto else _declared(info))
    return found


def _declared(info: TaskInfo) -> Way:
    return Way(info.name, str(info.options["group"]), 0, "declared by the task")


def _learned(segment: Segment, info: TaskInfo) -> Way:
    from shmq.planner.routing import Traits, choose
    from shmq.planner.routing.learner import traits_of

    row = next((row for row in segment.rows("task_routes") if row[TASK_ROUTE["key"]] == info.key), None)
    groups = segment.group_names()
    choice = choose(Traits() if row is None else traits_of(row), groups)
    return Way(info.name, choice.group, 0, choice.evidence)


def listing(ways: list[Way]) -> str:
    """As a table."""
    rows = [
        [way.task, way.group, f"{way.min_payload_bytes:,} B" if way.min_payload_bytes else "any", way.why]
        for way in ways
    ]
    return table(["task", "goes to", ">arguments from", "because"], rows)
