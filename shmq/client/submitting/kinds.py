"""What a job may be of: a task, a task known by name only, chunks of many calls, parts of one."""

from __future__ import annotations

from typing import Any

from shmq.errors import UnknownTask
from shmq.tasks.registry import TaskInfo
from shmq.tasks.task import Options, Task
from shmq.wire.failure import Failure

REMOTE = 1 << 64
"""Key of the decoder for results of tasks known by name only: above every task's key."""

PART, STREAM = 1 << 65, 1 << 66
"""Added to the key of the decoder: for single parts, for chunks of `stream`."""


class RemoteTask(Task[..., Any]):
    """A task of which only the published facts are known here; arguments are checked by the worker."""

    def __init__(self, info: TaskInfo) -> None:
        def function(*_args: Any, **_kwargs: Any) -> Any:
            raise UnknownTask(f"task {info.name} is known here by name only; import its module to call it directly")

        names = {name: value for name, value in info.options.items() if name not in {"retry_on", "give_up_on"}}
        super().__init__(function, Options(**names), info.name)
        self.result_key = REMOTE  # its results stay plain, those of the task object do not
        self.info = info

    @property
    def yields(self) -> bool:
        """Is it a generator?"""
        return self.info.yields

    @property
    def is_coroutine(self) -> bool:
        """As of every task."""
        return self.info.is_coroutine

    def options(self, **changes: Any) -> Task[..., Any]:
        """As of every task; stays remote."""
        changed = super().options(**changes)
        other = RemoteTask(self.info)
        other.settings, other.has_chosen_group = changed.settings, changed.has_chosen_group
        return other


class ChunkOf:
    """A task as chunks of `map` call it: one answer holds the results of many calls."""

    def __init__(self, task: Task[..., Any]) -> None:
        self.name = task.name
        self.result_key = ~task.result_key
        self._task = task

    def result_type(self) -> Any:
        """(run ns, values of the calls that succeeded, failures by index)."""
        return tuple[int, list[result_type_of(self._task)], dict[int, Failure]]  # type: ignore[misc]


class StreamOf:
    """A task as chunks of `stream` call it: one answer yields the results, or the parts, of many calls."""

    yields = True

    def __init__(self, task: Task[..., Any]) -> None:
        self.name = task.name
        self.result_key = task.result_key + STREAM
        self.task = task

    def result_type(self) -> Any:
        """All of them, when nobody read them one by one."""
        part = _part_type(self)
        return Any if part is Any else list[part]  # type: ignore[valid-type]


class PartOf:
    """A task as its streams are read: part by part."""

    def __init__(self, task: Task[..., Any] | StreamOf) -> None:
        self.name = task.name
        self.result_key = task.result_key + PART
        self._task = task

    def result_type(self) -> Any:
        """The type of one part."""
        return _part_type(self._task)


Named = Task[..., Any] | ChunkOf | StreamOf
"""What a job may be of."""


def _part_type(task: Task[..., Any] | StreamOf) -> Any:
    if isinstance(task, StreamOf):
        task = task.task
    return Any if isinstance(task, RemoteTask) else task.signature.part_type()


def result_type_of(task: Task[..., Any]) -> Any:
    """What one call returns, as far as it is known here."""
    return Any if isinstance(task, RemoteTask) else task.signature.result_type()
