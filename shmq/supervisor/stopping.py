"""How a supervisor ends: workers finish within the grace, what is left is killed, nothing stays behind.

The segment stays, with its jobs, while there are any or a producer is attached: the next supervisor goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shmq.supervisor import namespace
from shmq.supervisor.pools.worker import STOPPED

if TYPE_CHECKING:
    from shmq.supervisor.main import Supervisor

_log = logging.getLogger("shmq.supervisor")
_LAST_WAIT_S = 5.0


class Stopping:
    """Drain, stop, leave: the last part of one supervisor's life."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._at = float("inf")
        self._is_draining = False
        self.is_forced = False
        """Did the grace end before all jobs did?"""

    @property
    def is_asked(self) -> bool:
        """Shall it end at once, or once no job is left?"""
        return self.has_begun or self._is_draining

    @property
    def has_begun(self) -> bool:
        """Is the supervisor on its way out?"""
        return self._at < float("inf")

    def drain(self) -> int:
        """Run what was submitted and what comes meanwhile, then stop; how many jobs are left now."""
        self._is_draining = True
        self._supervisor.segment.set_header("draining", 1)
        return namespace.jobs_left(self._supervisor.segment)

    def stop(self, grace_s: float) -> None:
        """Workers finish what they run within the grace, then are killed. A later call may shorten it."""
        is_first = not self.has_begun
        self._at = min(self._at, time.monotonic() + grace_s)
        if is_first:
            workers = self._supervisor.pools.all_workers()
            if workers:
                _log.info("stopping: workers have %g s to finish what they run", grace_s)
            for worker in workers:
                worker.drain()

    def is_over(self) -> bool:
        """Has everybody left? Drains and kills on the way there."""
        supervisor = self._supervisor
        if not self.has_begun:
            if self._is_draining and not namespace.is_job_left(supervisor.segment):
                _log.info("drained: no job is left")
                self.stop(supervisor.config.supervisor.grace_s)
            return False
        workers = supervisor.pools.all_workers()
        if workers and time.monotonic() >= self._at:
            for worker in workers:
                if worker.kill_reason is None:
                    self.is_forced = self.is_forced or worker.is_live
                    worker.kill(STOPPED)
        return not workers

    def leave(self) -> None:
        """Give everything back."""
        supervisor = self._supervisor
        for worker in supervisor.pools.all_workers():  # only after an error in the loop
            worker.kill(STOPPED)
        supervisor.servers.close()
        self._wait(lambda: not supervisor.pools.all_workers() and not self._has_dead_rows())
        for helper in supervisor.helpers:
            helper.kill()
        self._wait(lambda: not any(helper.pid for helper in supervisor.helpers) and not supervisor.servers.pids())
        segment = supervisor.segment
        segment.set_header("supervisor_pid", 0)
        segment.set_header("recovery_pid", 0)
        left = namespace.jobs_left(segment)
        if not segment.is_linked():
            namespace.remove_bells(segment, supervisor.state_dir)
            _log.warning("stopped; the segment's name had been removed, with it %d unfinished jobs", left)
        elif namespace.remove_if_unused(segment, supervisor.state_dir, supervisor.lock_file):
            _log.info("stopped; nothing left behind")
        elif left:
            _log.info("stopped; the segment stays with %d unfinished jobs: start again to go on", left)
        else:
            _log.info("stopped; the segment stays, producers are attached to it: start again to serve them")

    def _has_dead_rows(self) -> bool:
        rows = self._supervisor.pools.rows
        return any(rows.is_dead(index) for index in range(rows.count))

    def _wait(self, is_done: Callable[[], bool]) -> None:
        """Reap until a condition holds, but not for ever: nothing that follows depends on it."""
        give_up = time.monotonic() + _LAST_WAIT_S
        while not is_done() and time.monotonic() < give_up:
            self._supervisor.reap()
            for helper in self._supervisor.helpers:
                helper.keep_alive()
            time.sleep(0.002)
