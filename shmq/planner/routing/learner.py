"""From the sums of the workers to a class per task: the one writer of `task_routes`.

    task_traits (each worker its own) ──what was added──▶ Traits ──choose()──▶ task_routes ──▶ producers

The row of a task in the segment holds all that is known of it, so that a planner that starts anew goes on from there.
"""

from __future__ import annotations

import logging

import numpy as np

from shmq.errors import ShmqError
from shmq.memory.columns import column
from shmq.memory.layout import MOST_ROUTED_TASKS, TASK_ROUTE, TASK_TRAITS
from shmq.memory.segment import Segment
from shmq.planner.routing.classes import CLASSES, Traits, choose
from shmq.tasks.registry import read

_MEANS = ("wall_ns", "cpu_ns", "growth_bytes", "payload_bytes", "storage_bytes")
_SUMS = [TASK_TRAITS[name] for name in _MEANS]
_KEY, _JOBS = TASK_TRAITS["key"], TASK_TRAITS["jobs"]
_NS = 1e9
_log = logging.getLogger("shmq.planner")


class Learner:
    """Learns for one namespace; `step` now and then, as often as classes should change at most."""

    def __init__(self, segment: Segment, groups: list[str]) -> None:
        self._segment, self._groups = segment, groups
        self._routes = segment.rows("task_routes")
        self._version = segment.view("route_version")
        self._sums = column(segment, "task_traits")
        self._known = self._sums.astype(np.int64)  # what was there before us has been counted
        self._registry = -1
        self._traits: dict[int, Traits] = {}  # by row
        self._names: dict[int, str] = {}

    def step(self) -> None:
        """Take what was measured since the last step; write the groups that follow."""
        registry = self._segment.header("registry")
        if registry != self._registry:
            self._registry = registry
            self._seat_tasks()
        if self._traits:
            self._learn()

    def _seat_tasks(self) -> None:
        """Give each task with `group = "auto"` a row; one that had a row keeps it."""
        try:
            tasks = read(self._segment.state_dir).values()
        except ShmqError as error:
            _log.warning("tasks with automatic groups stay where they are: %s", error)
            return
        wanted = {info.key: info.name for info in tasks if info.is_auto}
        rows = {row[TASK_ROUTE["key"]]: at for at, row in enumerate(self._routes) if row[TASK_ROUTE["key"]] in wanted}
        free = [at for at in range(MOST_ROUTED_TASKS) if at not in rows.values()]
        for at in free:
            self._routes[at][TASK_ROUTE["key"]] = 0
        without = [name for key, name in wanted.items() if key not in rows][len(free) :]
        if without:
            _log.warning(
                '%d tasks have group = "auto", %d can be measured: %s stay in the default group. Name their groups.',
                len(wanted), MOST_ROUTED_TASKS, ", ".join(without),
            )  # fmt: skip
        rows.update(zip((key for key in wanted if key not in rows), free, strict=False))
        self._names = {at: wanted[key] for key, at in rows.items()}
        self._traits = {at: self._traits_in(at, key) for key, at in rows.items()}
        for at in self._traits:
            self._publish(at)

    def _traits_in(self, at: int, key: int) -> Traits:
        row = self._routes[at]
        if row[TASK_ROUTE["key"]] != key:
            for word in range(len(row)):
                row[word] = 0
            row[TASK_ROUTE["key"]] = key
        return traits_of(row)

    def _learn(self) -> None:
        now = self._sums.astype(np.int64)
        for at, traits in self._traits.items():
            mine = now[:, at, _KEY].astype(np.uint64) == np.uint64(self._routes[at][TASK_ROUTE["key"]])
            # sums begin anew when a worker measures another task there
            before = np.where(
                now[:, at, _JOBS : _JOBS + 1] < self._known[:, at, _JOBS : _JOBS + 1], 0, self._known[:, at]
            )
            new = mine & (now[:, at, _JOBS] > before[:, _JOBS])  # the jobs are written last: until then nothing counts
            if not new.any():
                continue
            added = (now[new, at] - before[new]).sum(axis=0)
            self._known[new, at] = now[new, at]
            jobs = int(added[_JOBS])
            wall, cpu, growth, payload, storage = (float(max(added[i], 0)) / jobs for i in _SUMS)
            traits.observe(wall / _NS, cpu / _NS, growth, payload, storage, jobs)
            self._publish(at)

    def _publish(self, at: int) -> None:
        """The row: means, group, the version that tells producers to look again; last the jobs it all rests on."""
        row, traits = self._routes[at], self._traits[at]
        choice = choose(traits, self._groups)
        for word, value in {
            "wall_ns": traits.wall_s * _NS, "cpu_ns": traits.cpu_s * _NS, "growth_bytes": traits.memory_growth_bytes,
            "payload_bytes": traits.payload_bytes, "storage_bytes": traits.storage_bytes,
            "class": CLASSES.index(traits.group) + 1 if traits.group else 0,
        }.items():  # fmt: skip
            row[TASK_ROUTE[word]] = int(value)
        group = self._groups.index(choice.group) + 1
        if row[TASK_ROUTE["group"]] != group:
            _log.info("task %s goes to group %s: %s", self._names[at], choice.group, choice.evidence)
            row[TASK_ROUTE["group"]] = group
            # SYNC POINT: route-visible — the group is written before the version that producers compare
            self._version[0] += 1
        row[TASK_ROUTE["jobs"]] = traits.jobs


def traits_of(row: memoryview) -> Traits:
    """What a row of `task_routes` says of its task."""
    word = {name: int(row[i]) for name, i in TASK_ROUTE.items()}
    known = CLASSES[word["class"] - 1] if 0 < word["class"] <= len(CLASSES) else ""
    return Traits(
        word["jobs"], word["wall_ns"] / _NS, word["cpu_ns"] / _NS, float(word["growth_bytes"]),
        float(word["payload_bytes"]), float(word["storage_bytes"]), known,
    )  # fmt: skip
