"""`@shmq.task`: declares a function as a task. The object stays callable: `task(...)` runs here."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from shmq.errors import BadArguments
from shmq.tasks.signature import Signature

if TYPE_CHECKING:  # the client imports tasks; types only look upwards
    from shmq.client.handle import Job

P = ParamSpec("P")
R = TypeVar("R")
Exceptions = tuple[type[BaseException], ...]
LONGEST_S = 1e9
"""Bound of every duration, as in the configuration: longer ones do not fit the segment's nanoseconds."""
AUTO = "auto"
"""Group of tasks that go where the planner sends them, by what it measured of their jobs."""
_MAY_BE_NONE = frozenset({"timeout", "expires", "block", "eta"})


@dataclass(frozen=True, slots=True)
class Options:
    """How jobs of a task are run. Seconds are floats; None means "as the group says"."""

    group: str = "computation"
    priority: int = 3
    retries: int | None = None
    timeout: float | None = None
    retry_on: Exceptions = (Exception,)
    give_up_on: Exceptions = ()
    backoff: float = 0.5
    max_backoff: float = 60.0
    idempotent: bool = False
    delay: float = 0.0
    eta: float | None = None
    expires: float | None = None
    forget: bool = False
    block: float | None = None

    def check(self, name: str) -> Options:
        """Refuse values that cannot mean anything."""
        for fault in self._faults():
            raise BadArguments(f"task {name}: {fault}.")
        return self

    def _faults(self) -> Iterator[str]:
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}  # from callers
        if not (isinstance(values["priority"], int) and 1 <= self.priority <= 5):
            yield f"priority must be 1 (first) to 5, got {self.priority!r}"
        if values["retries"] is not None and not (isinstance(values["retries"], int) and 0 <= values["retries"] <= 254):
            yield f"retries must be 0..254, got {self.retries!r}"
        for what in ("retry_on", "give_up_on"):
            kinds = values[what]
            if not (isinstance(kinds, tuple) and all(_is_exception(kind) for kind in kinds)):
                yield f"{what} must be an exception type, or several, such as (OSError, ValueError); got {kinds!r}"
        if not isinstance(values["group"], str):
            yield f"group must be the name of a group, got {self.group!r}"
        for what in ("timeout", "expires", "block", "eta", "delay", "backoff", "max_backoff"):
            value = getattr(self, what)
            if value is None and what in _MAY_BE_NONE:
                continue
            most = LONGEST_S if what != "eta" else 10 * LONGEST_S  # eta: seconds since 1970
            if not (isinstance(value, int | float) and 0 <= value <= most):  # NaN is not between either
                yield f"{what} must be a number of seconds from 0 to {most:g}, got {value!r}"
            elif value == 0 and what in {"timeout", "expires"}:
                yield f"{what} must be more than 0 seconds, got {value!r}"


def _is_exception(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


PRODUCER_OPTIONS = frozenset({"priority", "retries", "timeout", "delay", "eta", "expires", "forget", "block", "group"})
"""Options that `.options(...)` may change for single jobs."""
DECLARED_OPTIONS = frozenset(Options.__dataclass_fields__) - {"delay", "eta", "block"}
"""Options of `@shmq.task(...)`."""


def key_of(name: str) -> int:
    """The task's 64-bit key in job headers: no record ever names code."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Task(Generic[P, R]):
    """A declared function and its options. Make one with `@shmq.task`."""

    def __init__(self, function: Callable[P, R], options: Options, name: str | None = None) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or f"{function.__module__}.{function.__qualname__}"
        self.key = key_of(self.name)
        self.result_key = self.key  # which decoder reads its results
        self.settings = options.check(self.name)
        self.has_chosen_group = False  # by `.options(group=...)`: then neither rules nor measurements decide
        self._target: Any = None  # everything precomputed for submit; then `submit` is the default client's hot path

    @functools.cached_property
    def signature(self) -> Signature:
        """Parameters and types of the function."""
        return Signature(self.function, self.name)

    @property
    def yields(self) -> bool:
        """Is it a generator, whose parts can be read as they come?"""
        return self.signature.is_generator

    @property
    def is_coroutine(self) -> bool:
        """Do many of its calls run at once in one worker, if that has `concurrency`?"""
        return self.signature.is_coroutine

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; no supervisor is needed."""
        return self.function(*args, **kwargs)

    def options(self, **changes: Any) -> Task[P, R]:
        """The same task with other options for the jobs submitted through it."""
        unknown = set(changes) - PRODUCER_OPTIONS
        if unknown:
            raise BadArguments(
                f"task {self.name}: options({', '.join(sorted(unknown))}) cannot be set for single jobs; "
                f"allowed: {', '.join(sorted(PRODUCER_OPTIONS))}."
            )
        other = Task(self.function, replace(self.settings, **changes), self.name)
        other.__dict__["signature"] = self.signature
        other.has_chosen_group = changes.get("group", AUTO) != AUTO or (
            self.has_chosen_group and "group" not in changes
        )
        return other

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Queue one job with the default client and return its handle.

        Raises:
            SubmitError: the job was not accepted (unknown task, wrong arguments, queue full, ...).
            NotRunning: no supervisor serves the namespace.
        """
        hot_path: Callable[P, Job[R]] | None = self.__dict__.get("submit")  # set since somebody took this method along
        if hot_path is not None:
            return hot_path(*args, **kwargs)
        return cast("Job[R]", _default_client().submit_task(self, args, kwargs))

    def submit_nowait(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As `submit`, but raise QueueFull at once instead of waiting for room."""
        return cast("Job[R]", _default_client().submit_task(self, args, kwargs, block=0.0))

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As `submit`, for event loops: waiting for room never blocks the loop."""
        return cast("Job[R]", await _default_client().asubmit_task(self, args, kwargs))

    def describe(self) -> dict[str, Any]:
        """Plain facts for the registry: name, signature, options."""
        options = asdict(self.settings)
        for types in ("retry_on", "give_up_on"):
            options[types] = [kind.__name__ for kind in getattr(self.settings, types)]
        return {
            "name": self.name, "key": self.key, "signature": str(self.signature), "options": options,
            "doc": (self.function.__doc__ or "").strip().split("\n")[0], "words": self.signature.words(),
            "yields": self.yields, "is_coroutine": self.is_coroutine,
        }  # fmt: skip

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled by name, as the function would be, with the options that were changed since the declaration."""
        declared = self._declared()
        if declared is None or declared is self:
            return self.function.__qualname__
        changes = {
            name: value for name in PRODUCER_OPTIONS
            if (value := getattr(self.settings, name)) != getattr(declared.settings, name)
        }  # fmt: skip
        if self.has_chosen_group:
            changes["group"] = self.settings.group  # also where it is the declared one: rules do not decide then
        return _changed, (declared, changes)

    def _declared(self) -> Task[..., Any] | None:
        """The task that its module holds under its name."""
        found: Any = sys.modules.get(self.function.__module__)
        for part in self.function.__qualname__.split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, Task) and found.name == self.name else None

    def __repr__(self) -> str:
        return f"<shmq.task {self.name} group={self.settings.group!r}>"


def _changed(task: Task[..., Any], changes: dict[str, Any]) -> Task[..., Any]:
    return task.options(**changes)


def _default_client() -> Any:
    # the one step upwards: `task.submit` finds the default client when it is first used
    from shmq.client import default

    return default.client()


T = TypeVar("T")


@overload
def task(function: Callable[P, Awaitable[T]], /) -> Task[P, T]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    group: str = ...,
    priority: int = ...,
    retries: int | None = ...,
    timeout: float | None = ...,
    retry_on: type[BaseException] | Exceptions = ...,
    give_up_on: type[BaseException] | Exceptions = ...,
    backoff: float = ...,
    max_backoff: float = ...,
    idempotent: bool = ...,
    expires: float | None = ...,
    forget: bool = ...,
) -> _Decorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Declare a task: `@shmq.task` or `@shmq.task(group="network", retries=3, ...)`.

    Args:
        group: resource group whose workers run it; "auto": routed by measured character.
        priority: 1 (served first) to 5.
        retries: attempts after the first when it raises; None: the group's default.
        timeout: seconds a run may take before TaskTimeout is raised in it.
        retry_on, give_up_on: exception types that are retried, or never are.
        backoff, max_backoff: first and longest pause between attempts, in seconds.
        idempotent: running it twice does no harm (shown in `shmq tasks`).
        expires: seconds after submit from which a job that has not started is dropped.
        forget: nobody reads results; the slot is free as soon as the job ends.
    """
    for types in ("retry_on", "give_up_on"):
        if isinstance(kinds := options.get(types), type):
            options[types] = (kinds,)
        elif isinstance(kinds, list | set | frozenset):
            options[types] = tuple(kinds)

    def declare(function: Callable[..., Any]) -> Task[..., Any]:
        _check_declaration(function, options)
        declared: Task[..., Any] = Task(function, Options(**options))
        return declared

    return declare if function is None else declare(function)


def _check_declaration(function: Any, options: dict[str, Any]) -> None:
    """Refuse what cannot be declared: workers find a task by its module and name, and call it as it is."""
    if not (callable(function) and hasattr(function, "__qualname__") and getattr(function, "__module__", None)):
        raise BadArguments(f"@shmq.task declares a function, got {function!r}; options are given by name.")
    name = f"{function.__module__}.{function.__qualname__}"
    if unknown := sorted(set(options) - DECLARED_OPTIONS):
        from shmq.config.check import nearest  # only here: nobody pays for it who makes no mistake

        raise BadArguments(f"task {name}: unknown option {unknown[0]!r}; {nearest(unknown[0], DECLARED_OPTIONS)}")
    if "." in function.__qualname__.rsplit("<locals>.", 1)[-1]:
        raise BadArguments(
            f"task {name}: workers find a task by the name of its module and its own, so it must not be inside a "
            "class.\nMake it a function of the module that calls the method."
        )


class _Decorator:
    """Typing of `@shmq.task(...)`: keeps the signature, unwraps awaitables and generators."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, Generator[T, Any, Any]], /) -> Task[P, list[T]]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncGenerator[T, Any]], /) -> Task[P, list[T]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Task[P, T]: ...
    def __call__(self, function: Callable[..., Any], /) -> Task[..., Any]:  # pragma: no cover - typing only
        raise NotImplementedError
