"""Who wants to be called once a job has ended, or a part has come."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from shmq.client.results.collecting import check_own

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.client.results.poller import Poller

_log = logging.getLogger("shmq.client")


class Callbacks:
    """The callbacks of one row, and the thread that runs them: started with the first."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jobs: set[Job[Any]] = set()
        self._part_wakers: set[tuple[Callable[[], bool], Callable[[], None]]] = set()
        self._poller: Poller | None = None

    def add(self, job: Job[Any], function: Callable[[Job[Any]], object]) -> None:
        """Call back once the job has ended: now, or from the poller thread."""
        client = self._client
        with client._lock:
            if not job.done():
                check_own(client, job)
                job._callbacks = (*getattr(job, "_callbacks", ()), function)
                self._jobs.add(job)
                self._ensure_poller()
                return
        _call(function, job)

    @contextlib.contextmanager
    def waking(self, is_ready: Callable[[], bool], wake: Callable[[], None]) -> Iterator[None]:
        """Meanwhile call `wake` whenever workers have rung and `is_ready()`."""
        entry = (is_ready, wake)
        with self._client._lock:
            self._part_wakers.add(entry)
            self._ensure_poller()
        try:
            yield
        finally:
            self._part_wakers.discard(entry)

    def run(self) -> None:
        """Call for what has ended or come. Caller must: not hold the client's lock."""
        client = self._client
        client.make_room_for_results()
        with client._lock:
            ended = [job for job in self._jobs if job.done()]
            self._jobs.difference_update(ended)
        for is_ready, wake in tuple(self._part_wakers):
            if is_ready():
                wake()
        for job in ended:
            functions, job._callbacks = job._callbacks, ()
            for function in functions:
                _call(function, job)

    def stop(self) -> None:
        """End the thread. Caller must: not hold the client's lock, for which the thread may be waiting."""
        with self._client._lock:
            poller, self._poller = self._poller, None
        if poller is not None:
            poller.stop()

    def _ensure_poller(self) -> None:
        """Have a thread that looks, and soon enough at what rings were left out for."""
        if self._poller is not None:
            if self._client._publisher.promises.believed:
                self._poller.see_to_promises()
        else:
            self._client._check_usable()
            from shmq.client.results.poller import Poller  # most producers never need it, and what it imports

            self._poller = Poller(self._client._row, self._client._publisher.promises, self.run)


def _call(function: Callable[[Any], object], job: Any) -> None:
    """Run a user's callback; what it raises is logged, as concurrent.futures does."""
    try:
        function(job)
    except Exception:
        _log.exception("callback %r of job %s failed", function, job.id)
