"""Jobs of one task that do not all go to one group: rules of the config, then the planner's class.

    [[routes]] that fit, in their order ──▶ group
    else group = "auto" ──▶ class from `task_routes`, a default while there is none
    else the task's own group

What applies is worked out once and again when one of two version words moves, so that a submit costs two loads
and a comparison more. Only where a rule asks for a payload is the message encoded to learn its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq.memory.layout import HEADER, TASK_ROUTE
from shmq.tasks.registry import Rule, TaskInfo, default_group
from shmq.tasks.task import AUTO
from shmq.wire.codec import payload_bytes

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.client.submitting.targets import Registry, Target
    from shmq.tasks.task import Task

_REGISTRY = HEADER["registry"]
_KEY, _GROUP = TASK_ROUTE["key"], TASK_ROUTE["group"]


def is_routed(task: Task[..., Any], info: TaskInfo) -> bool:
    """May jobs of the task go to different groups? Not when the caller chose one: `options(group=...)`."""
    return not task.has_chosen_group and bool(info.rules or info.is_auto)


class Router:
    """Finds the target of each job of one task. One per task and client."""

    def __init__(self, registry: Registry, client: Client, task: Task[..., Any]) -> None:
        self._registry, self._client, self._task = registry, client, task
        segment = client.segment
        self._header, self._version = segment.view("header"), segment.view("route_version")
        self._routes = segment.rows("task_routes")
        self._targets: dict[str, Target] = {}
        self._rules: tuple[Rule, ...] = ()
        self._learn()

    def pick(self, *messages: Any) -> Target:
        """Where a job goes; of several messages (calls of a chunk) the largest decides."""
        if self._version[0] != self._routes_seen or self._header[_REGISTRY] != self._registry_seen:
            self._learn()
        if not self._rules:
            return self._otherwise
        size = max(map(payload_bytes, messages))
        rule = next((rule for rule in self._rules if size >= rule.min_payload_bytes), None)
        return self._otherwise if rule is None else self._target(rule.group)

    def groups(self) -> set[int]:
        """Where its jobs may go at this moment."""
        return {self.pick(()).route.group, *(self._target(rule.group).route.group for rule in self._rules)}

    def submit(self, *args: Any, **kwargs: Any) -> Job[Any]:
        """Queue one call by the hot path of its group."""
        if kwargs:
            return self._client.submit_task(self._task, args, kwargs)
        return self.pick(args).submit(*args)

    def _learn(self) -> None:
        # SYNC POINT: route-visible — the versions are read before what they count
        self._routes_seen, self._registry_seen = self._version[0], self._header[_REGISTRY]
        info = self._registry.info(self._task.name)
        self._rules = tuple(rule for rule in info.rules if rule.min_payload_bytes)
        of_all = next((rule.group for rule in info.rules if not rule.min_payload_bytes), "")
        self._otherwise = self._target(of_all or self._own_group(info))

    def _own_group(self, info: TaskInfo) -> str:
        wish = self._task.settings.group
        if wish == AUTO:
            wish = str(info.options["group"])
        return self._learned_group() if wish == AUTO else wish

    def _learned_group(self) -> str:
        """The group that the planner wrote for the task."""
        names, key = self._registry.groups, self._task.key
        row = next((row for row in self._routes if row[_KEY] == key), None)
        return names[row[_GROUP] - 1] if row is not None and 0 < row[_GROUP] <= len(names) else default_group(names)

    def _target(self, group: str) -> Target:
        if group not in self._targets:
            self._targets[group] = self._registry.target_in(self._client, self._task, group)
        return self._targets[group]
