"""From a task to everything that submitting it needs, worked out once per task and client."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shmq.client.handle import Origin
from shmq.client.hot import make_submit
from shmq.client.submitting.kinds import ChunkOf, Named, PartOf, RemoteTask, StreamOf, result_type_of
from shmq.client.submitting.routing import Router, is_routed
from shmq.clock import to_ns
from shmq.errors import BadArguments, UnknownGroup, UnknownTask
from shmq.memory.lanes import lane
from shmq.memory.layout import GROUP_CONTROL, GROUP_CONTROL_WORDS, HEADER, LIMIT_WORDS, TASK_LIMIT
from shmq.memory.segment import Segment
from shmq.tasks import current
from shmq.tasks.registry import TaskInfo, nearest, read
from shmq.tasks.task import AUTO, Task
from shmq.transport.publish import Route
from shmq.wire.codec import Decoder
from shmq.wire.header import FORGET, INHERIT_RETRIES, LANE_SHIFT, VARIADIC

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job

_REGISTRY = HEADER["registry"]


@dataclass(slots=True)
class Target:
    """Where and how jobs of one task with one set of options go."""

    client: Client
    route: Route
    least: int
    most: int
    bind: Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    is_plain: bool  # nothing but the hot path is needed
    block: float | None
    delay_s: float
    eta: float | None
    expires_s: float | None
    origin: Origin
    submit: Callable[..., Job[Any]]
    router: Router | None = None  # set: each job asks it for its own target
    rates: tuple[memoryview, ...] = ()  # words with the rate limits of its jobs, as of that version of the registry
    rates_seen: int = -1


class Registry:
    """The published tasks and groups, as one client sees them. Read again when the workers' changes."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._header = segment.view("header")
        self._version = -1
        self._infos: dict[str, TaskInfo] = {}
        self._remote: dict[str, Task[..., Any]] = {}
        self._groups = {name: g for g, name in enumerate(segment.group_names())}
        self._group_rates = segment.view("group_control")[GROUP_CONTROL["rate_per_s_milli"] :: GROUP_CONTROL_WORDS]
        self._task_rates = segment.view("task_limits")[TASK_LIMIT["rate_per_s_milli"] :: LIMIT_WORDS]
        self._decoders: dict[int, Callable[[bytes], Any]] = {}
        self._resolved: weakref.WeakSet[Task[..., Any]] = weakref.WeakSet()  # `options` may make one for each job

    def infos(self) -> dict[str, TaskInfo]:
        """Registered tasks by name."""
        version = self._segment.header("registry")
        if version != self._version:
            self._infos, self._version = read(self._segment.state_dir), version
            self._remote.clear()
        return self._infos

    def task(self, name: str) -> Task[..., Any]:
        """A task known only by name. Raises UnknownTask with the nearest names."""
        known = self._remote.get(name)
        if known is None:
            known = self._remote[name] = RemoteTask(self.info(name))
        return known

    def resolved(self, task: Task[..., Any] | str) -> Task[..., Any]:
        """The task that a user named or passed. Raises BadArguments for what is neither."""
        if isinstance(task, Task):
            return task
        if isinstance(task, str):
            return self.task(task)
        raise BadArguments(
            f"{task!r} is not a task: decorate it with @shmq.task in a module the workers load, "
            'or pass the name of one: "module.function".'
        )

    @property
    def groups(self) -> list[str]:
        """Names of the groups, by index."""
        return list(self._groups)

    def info(self, name: str) -> TaskInfo:
        """What is published of a task. Raises UnknownTask with the nearest names."""
        infos = self.infos()
        if name not in infos:
            where = (
                "It is defined in the main script, which workers cannot import: put it in a module."
                if name.startswith("__main__.")
                else "Is its module in `tasks` of the config? After adding it: `shmq reload`."
            )
            raise UnknownTask(f"no worker has registered a task {name!r}. {nearest(name, list(infos))}\n{where}")
        return infos[name]

    def target(self, client: Client, task: Task[..., Any]) -> Target:
        """Work out the target and remember it in the task."""
        info = self.info(task.name)
        if is_routed(task, info):
            router = Router(self, client, task)
            target = replace(router.pick(()), submit=router.submit, router=router)
        else:
            group = task.settings.group
            target = self.target_in(client, task, str(info.options["group"]) if group == AUTO else group)
        if current.worker() is None:  # inside a task the parent changes with each job
            task._target = target
            with client._lock:  # `forget_targets` goes through them under it
                self._resolved.add(task)
            if target.is_plain and target.block is None and client.is_default:
                task.__dict__["submit"] = target.submit  # the hot path itself: no call in between
        return target

    def target_in(self, client: Client, task: Task[..., Any], group_name: str) -> Target:
        """The target of jobs that go to one group."""
        options, group = task.settings, self._group(group_name, task.name)
        place = lane(self._segment.shape, group, client._row.index, options.priority - 1)
        flags = (FORGET if options.forget else 0) | (options.priority - 1) << LANE_SHIFT
        route = Route(
            group, place.word, place.ring, task.key, flags,
            INHERIT_RETRIES if options.retries is None else options.retries,
            to_ns(options.timeout) if options.timeout else 0, current.job_id(),
        )  # fmt: skip
        is_plain = not (options.delay or options.eta is not None or options.expires is not None)
        is_remote = isinstance(task, RemoteTask)
        target = Target(
            client, route,
            0 if is_remote else task.signature.quick_least,
            VARIADIC - 1 if is_remote else task.signature.most,
            _as_they_are if is_remote else task.signature.bind,
            is_plain, options.block, options.delay, options.eta, options.expires,
            Origin(client, task, self.decoder(client._decoder, task)), _not_ready,
        )  # fmt: skip
        target.submit = make_submit(client, target, task)
        return target

    def is_rate_limited(self, target: Target, task: Task[..., Any]) -> bool:
        """Does the task, or a group where its jobs may go, have a rate limit at this moment?"""
        version = self._header[_REGISTRY]
        if target.rates_seen != version or target.router is not None:  # routes change without a new registry
            target.rates, target.rates_seen = self._rates(target, task), version
        for rate in target.rates:  # noqa: SIM110 - `map` asks for each chunk; a generator costs more than all else
            if rate[0]:
                return True
        return False

    def _rates(self, target: Target, task: Task[..., Any]) -> tuple[memoryview, ...]:
        groups = {target.route.group} if target.router is None else target.router.groups()
        limit = self.info(task.name).limit
        of_groups = (self._group_rates[group : group + 1] for group in groups)
        return (*of_groups, *(() if limit is None else (self._task_rates[limit[0] : limit[0] + 1],)))

    def forget_targets(self) -> None:
        """The row is gone: every task works its target out again."""
        for task in self._resolved:
            task._target = None
            task.__dict__.pop("submit", None)
        self._resolved.clear()

    def _group(self, name: str, task: str) -> int:
        if name not in self._groups:
            raise UnknownGroup(
                f"task {task} asks for group {name!r}; the supervisor runs {', '.join(self._groups)}.\n"
                f"Add [groups.{name}] to the config, or change the task's group."
            )
        return self._groups[name]

    def decoder(self, decoder: Decoder, task: Named | PartOf) -> Callable[[bytes], Any]:
        """Decodes results of the task, or chunks or parts of them, to its return annotation."""
        found = self._decoders.get(task.result_key)
        if found is None:
            kind = task.result_type() if isinstance(task, ChunkOf | StreamOf | PartOf) else result_type_of(task)
            found = self._decoders[task.result_key] = decoder.typed(kind).decode
        return found


def _not_ready(*_args: Any) -> Any:
    raise AssertionError("a target is used before its hot path was made")


def _as_they_are(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs
