"""One of the jobs that run at once, and its interruption: the coroutine cancelled, TaskTimeout raised in the thread."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any

from shmq.clock import NS
from shmq.errors import JobCancelled, TaskTimeout
from shmq.transport.table import GENERATION_SHIFT
from shmq.wire.header import Header
from shmq.worker.calls.runnable import Runnable
from shmq.worker.results.outlet import Outlet


@dataclass(eq=False)
class Running:
    """One job that runs at present."""

    slot: int
    word: int
    head: Header
    runnable: Runnable | None
    started_ns: int
    deadline_ns: int = 0
    views: list[Any] = field(default_factory=list)
    future: asyncio.Task[Any] | None = None
    thread: int = 0  # ident of the thread that is inside the task's function
    guard: threading.Lock = field(default_factory=threading.Lock)
    has_timed_out: bool = False
    was_killed: bool = False
    outlet: Outlet | None = None  # of a generator

    @property
    def runs_on_loop(self) -> bool:
        """Is it a coroutine or an async generator, which can be cancelled?"""
        return self.runnable is not None and (self.runnable.is_async or self.runnable.is_async_generator)

    @property
    def job(self) -> int:
        """Id word: generation and slot."""
        return (self.word >> GENERATION_SHIFT) << 32 | self.slot

    @property
    def limit_ns(self) -> int:
        """Its time limit; 0 for none."""
        return self.head.timeout_ns or (self.runnable.timeout_ns if self.runnable is not None else 0)

    def time_out(self) -> None:
        """It is past its limit."""
        self.has_timed_out = True
        if self.runs_on_loop and self.future is not None:
            self.future.cancel()
            return
        with self.guard:
            if self.thread:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(TaskTimeout))

    def timeout(self) -> TaskTimeout:
        """What its end is then."""
        name = self.runnable.name if self.runnable is not None else "a task"
        return TaskTimeout(f"{name} ran past its time limit of {self.limit_ns / NS:g} s; raise `timeout`")

    def why_cancelled(self) -> BaseException:
        """What ended it, once it has been interrupted."""
        if self.has_timed_out:
            return self.timeout()
        if self.was_killed:
            return JobCancelled("killed on request")
        return asyncio.CancelledError("the task cancelled itself")
