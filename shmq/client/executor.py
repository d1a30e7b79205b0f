"""`concurrent.futures.Executor` on top of a client, for code that expects one."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

from shmq.client import default
from shmq.client.client import Client
from shmq.client.handle import Job
from shmq.errors import BadArguments, JobCancelled
from shmq.tasks.task import Task


class Executor(concurrent.futures.Executor):
    """Runs declared tasks; plain functions cannot travel (no code is ever sent).

    Args:
        client: the client to use; None: the default one.
    """

    def __init__(self, client: Client | None = None) -> None:
        self._client = client or default.client()
        self._is_shut_down = False
        self._running: set[concurrent.futures.Future[Any]] = set()

    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Queue one job; the future resolves from shmq's poller thread."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not isinstance(fn, Task | str):
            raise BadArguments(f"{fn!r} is not a task: decorate it with @shmq.task in a module the workers load")
        job = self._client.submit(fn, *args, **kwargs)
        future = _JobFuture(job)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        job.add_done_callback(future.resolve)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more submits; waits for what runs. Workers go on: they belong to the supervisor."""
        self._is_shut_down = True
        running = list(self._running)
        if cancel_futures:
            for future in running:
                future.cancel()
        if wait:
            for future in running:  # not `concurrent.futures.wait`: inside a task the pool must know of the wait
                with contextlib.suppress(concurrent.futures.CancelledError):
                    future.exception()


class _JobFuture(concurrent.futures.Future[Any]):
    def __init__(self, job: Job[Any]) -> None:
        super().__init__()
        self._job = job

    def result(self, timeout: float | None = None) -> Any:
        """As of every future. Inside a task the pool must know of the wait."""
        with self._counted():
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `result`."""
        with self._counted():
            return super().exception(timeout)

    def _counted(self) -> contextlib.AbstractContextManager[None]:
        """Around a wait, if there is anything to wait for."""
        return contextlib.nullcontext() if self.done() else self._job._origin.client.waiting_for(self._job)

    def running(self) -> bool:
        """Does the job run at this moment?"""
        return not self.done() and self._job.state == "running"

    def cancel(self) -> bool:
        """Cancel the job if it certainly will not run."""
        if not self._job.cancel():
            return self.cancelled()
        super().cancel()  # `resolve` may have been called for it already
        return True

    def resolve(self, job: Job[Any]) -> None:
        """Take over the job's end."""
        try:
            value = job.result(0)
        except JobCancelled:
            super().cancel()
            self.set_running_or_notify_cancel()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(value)
