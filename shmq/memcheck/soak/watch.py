"""The worker's end: task deltas from the first job on, a memray trace while an order holds. Never both at once,
since memray's own memory would be taken for the tasks'.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shmq.memcheck.attribution import Source, TaskDeltas
from shmq.memcheck.soak import orders
from shmq.memcheck.tracing import WorkerTrace
from shmq.memcheck.usage import own

_SAVE_EVERY_S = 2.0


def watch_of(
    process: str,
    group: str,
    state_dir: Path,
    functions: Mapping[str, Callable[..., Any]],
    folder: str | None,
    counters: Mapping[str, Callable[[], int]],
    gc_mode: str,
) -> Watch:
    """For `worker.watching`.

    Args:
        process: the worker's name, for file names.
        group: whose orders count.
        state_dir: where they are.
        functions: of the tasks, by name.
        folder: where task deltas go; None: they are not measured.
        counters: what else a job could leave behind, by unit.
        gc_mode: the group's, to be told.
    """
    deltas = TaskDeltas(counters=counters) if folder else None
    return Watch(process, group, state_dir, functions, Path(folder) if folder else None, deltas, gc_mode)


class Watch:
    """See `worker.watching.Watch`."""

    def __init__(
        self,
        process: str,
        group: str,
        state_dir: Path,
        functions: Mapping[str, Callable[..., Any]],
        folder: Path | None,
        deltas: TaskDeltas | None,
        gc_mode: str,
    ) -> None:
        self._process, self._group, self._state_dir = process, group, state_dir
        self._functions = functions
        self._folder = folder
        self._deltas = deltas
        self._gc_mode = gc_mode
        self._trace: WorkerTrace | None = None
        self._traced_into = ""
        self._until_s = 0.0
        self._saved_s = time.monotonic()

    @property
    def measures_jobs(self) -> bool:
        """Whether `begin` and `end` are to be called."""
        return self._deltas is not None and self._trace is None

    @property
    def unmeasured(self) -> int:
        """Jobs before the next one that is measured; more than any batch has while none is."""
        return self._deltas.unmeasured if self._deltas is not None and self.measures_jobs else sys.maxsize

    def pass_by(self, jobs: int) -> None:
        """So many jobs went by unmeasured."""
        if self._deltas is not None and self.measures_jobs:
            self._deltas.pass_by(jobs)

    def begin(self, task: str) -> None:
        """A job is about to start."""
        if self._deltas is not None:
            self._deltas.begin(task)

    def end(self, *, failed: bool) -> None:
        """It has ended."""
        if self._deltas is not None:
            self._deltas.end(failed=failed)

    def obey(self) -> None:
        """Tell of the heap, start or end tracing, as the group's orders say now."""
        asked = orders.read(self._state_dir, self._group, orders.HEAP)
        if asked is not None:
            own.write(Path(asked.folder), self._gc_mode)
        order = orders.read(self._state_dir, self._group)
        if order is None:
            self._end_trace()
            return
        self._until_s = order.until_s
        if self._traced_into != order.folder:  # the order before ended while this worker was busy
            self._end_trace()
        if self._trace is None:
            self._traced_into = order.folder
            found = (Source.of(name, function) for name, function in self._functions.items())
            sources = [source for source in found if source is not None]
            self._trace = WorkerTrace(Path(order.folder), self._process, sources=sources, native=order.native)
            self._trace.start()

    def tick(self) -> bool:
        """Between jobs; False once there is nothing more to watch."""
        now_s = time.monotonic()
        if self._trace is not None:
            self._trace.tick()
            if now_s >= self._until_s:
                self._end_trace()
        if self._deltas is not None and self._folder is not None and now_s - self._saved_s > _SAVE_EVERY_S:
            self._saved_s = now_s
            self._deltas.save(self._folder)
        return self._deltas is not None or self._trace is not None

    def close(self) -> None:
        """The worker ends."""
        self._end_trace()
        if self._deltas is not None and self._folder is not None:
            self._deltas.save(self._folder)

    def _end_trace(self) -> None:
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.stop()
