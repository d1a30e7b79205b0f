"""What jobs of tasks with `group = "auto"` take: the planner classifies the task by these sums.

A measured call costs about 10 µs, so a task is measured at each of its first jobs and then 50 times a second at most.
Other tasks are called as they are. Memory and storage are asked of the kernel where one job runs at a time;
where many do (`concurrency`), only the job's own CPU time can be told from its neighbours'.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import TYPE_CHECKING, Any

from shmq.clock import now_ns
from shmq.memory.layout import MOST_ROUTED_TASKS, TASK_ROUTE, TASK_TRAITS, TASK_TRAITS_WORDS
from shmq.wire.codec import payload_bytes

if TYPE_CHECKING:
    from shmq.worker.calls.runnable import Runnable
    from shmq.worker.seat import Seat

ALWAYS_JOBS = 100  # of a task in one worker
PERIOD_NS = 20_000_000
_KEY, _JOBS = TASK_TRAITS["key"], TASK_TRAITS["jobs"]
_SUMS = [TASK_TRAITS[name] for name in ("wall_ns", "cpu_ns", "growth_bytes", "payload_bytes", "storage_bytes")]


def measure(runnables: list[Runnable], seat: Seat) -> None:
    """Have these tasks' calls measured from now on."""
    if not runnables:
        return
    meter = Meter(seat, is_alone=seat.settings.concurrency == 1)
    for runnable in runnables:
        runnable.call = meter.around(runnable.task.key, runnable.call)
        if not runnable.is_generator:
            runnable.call_whole = runnable.call
        runnable.coroutine = meter.around_coroutine(runnable.task.key, runnable.coroutine)


class Meter:
    """Measures for one worker and writes its rows of `task_traits`.

    Concurrency: threads of one worker (`concurrency`) may lose each other's counts; the sums are estimates.

    Args:
        is_alone: one job at a time; then memory and storage of the process are the job's.
    """

    def __init__(self, seat: Seat, *, is_alone: bool) -> None:
        segment, words = seat.segment, MOST_ROUTED_TASKS * TASK_TRAITS_WORDS
        self._traits = segment.view("task_traits")[seat.index * words : (seat.index + 1) * words]
        self._routes = segment.rows("task_routes")
        self._kernel = _Kernel() if is_alone else None
        self._cpu = time.process_time_ns if is_alone else time.thread_time_ns
        self._next_ns: dict[int, int] = {}
        self._measured: dict[int, int] = {}

    def around(self, key: int, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, measured now and then."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            if not self._is_due(key):
                return call(*args, **kwargs)
            kernel = self._kernel
            before = kernel.begin() if kernel else (0, 0, 0)
            began, cpu = now_ns(), self._cpu()
            value = call(*args, **kwargs)  # what raises is not measured: it did not do its work
            wall_ns, cpu_ns = now_ns() - began, self._cpu() - cpu
            growth, storage, held_up_ns = kernel.end(*before) if kernel else (0, 0, 0)
            self._add(key, wall_ns - held_up_ns, cpu_ns, growth, payload_bytes((args, kwargs)), storage)
            return value

        return measured

    def around_coroutine(self, key: int, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """The coroutine function, its turns of the event loop timed one by one."""

        async def measured(*args: Any, **kwargs: Any) -> Any:
            if not self._is_due(key):
                return await function(*args, **kwargs)
            began = now_ns()
            value, cpu_ns = await _timed(function(*args, **kwargs).__await__())
            self._add(key, now_ns() - began, cpu_ns, 0, payload_bytes((args, kwargs)), 0)
            return value

        return measured

    def _is_due(self, key: int) -> bool:
        if self._measured.get(key, 0) < ALWAYS_JOBS:
            return True
        now = now_ns()
        if now < self._next_ns.get(key, 0):
            return False
        self._next_ns[key] = now + PERIOD_NS
        return True

    def _add(self, key: int, *values: int) -> None:
        """Add one job; nothing while the planner has no row for the task."""
        self._measured[key] = self._measured.get(key, 0) + 1
        at = next((i for i, row in enumerate(self._routes) if row[TASK_ROUTE["key"]] == key), None)
        if at is None:
            return
        row = self._traits[at * TASK_TRAITS_WORDS : (at + 1) * TASK_TRAITS_WORDS]
        if row[_KEY] != key:  # of a task that is gone
            for word in (*_SUMS, _JOBS):
                row[word] = 0
            row[_KEY] = key
        for word, value in zip(_SUMS, values, strict=True):
            row[word] += max(value, 0)
        row[_JOBS] += 1  # last: the planner takes the sums when it sees more jobs


@coroutine
def _timed(steps: Generator[Any, Any, Any]) -> Generator[Any, Any, tuple[Any, int]]:
    """Drive a coroutine by hand: (its value, CPU time of its own turns)."""
    cpu_ns, step, sent = 0, steps.send, None
    while True:
        began = time.thread_time_ns()
        try:
            waits_for = step(sent)
        except StopIteration as end:
            return end.value, cpu_ns + time.thread_time_ns() - began
        cpu_ns += time.thread_time_ns() - began
        try:
            sent, step = (yield waits_for), steps.send
        except BaseException as error:
            sent, step = error, steps.throw


class _Kernel:
    """What the kernel counts for this process: peak of resident memory, bytes of storage, time without a core.

    The last is taken off the wall time: on a busy host a task that computes would seem to wait.
    """

    def __init__(self) -> None:
        self._status = _opened("/proc/self/status", os.O_RDONLY)
        self._peak_reset = _opened("/proc/self/clear_refs", os.O_WRONLY)
        self._io = _opened("/proc/self/io", os.O_RDONLY)
        self._schedule = _opened("/proc/thread-self/schedstat", os.O_RDONLY)

    def begin(self) -> tuple[int, int, int]:
        """Readings before a job; the peak of memory starts anew."""
        if self._peak_reset >= 0:
            os.pwrite(self._peak_reset, b"5", 0)
        return _value(self._status, b"\nVmRSS:") << 10, self._storage_bytes(), self._held_up_ns()

    def end(self, resident_bytes: int, storage_bytes: int, held_up_ns: int) -> tuple[int, int, int]:
        """(growth of memory at its peak, bytes of storage, ns ready to run without a core) since `begin`."""
        held_up = self._held_up_ns() - held_up_ns
        peak = _value(self._status, b"\nVmHWM:" if self._peak_reset >= 0 else b"\nVmRSS:") << 10
        return peak - resident_bytes, self._storage_bytes() - storage_bytes, held_up

    def _held_up_ns(self) -> int:
        return int(os.pread(self._schedule, 100, 0).split()[1]) if self._schedule >= 0 else 0

    def _storage_bytes(self) -> int:
        return _value(self._io, b"\nread_bytes:") + _value(self._io, b"\nwrite_bytes:")


def _opened(path: str, flags: int) -> int:
    """A descriptor, -1 where the kernel or a container does not offer the file: then nothing is counted."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return -1


def _value(descriptor: int, name: bytes) -> int:
    """The number behind a name in a /proc file; 0 when there is none."""
    if descriptor < 0:
        return 0
    _, _, rest = os.pread(descriptor, 4096, 0).partition(name)
    return int(rest.split(None, 1)[0]) if rest else 0
