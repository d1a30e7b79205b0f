"""Which fork server is in charge: the first start, reload, modules that start threads, deaths.

    coming ── Ready ──▶ in charge ── replaced or dead ──▶ leaving ── end of file ──▶ gone
       └── Late: another one comes, without those modules      └── Failed: refused, nothing changes

A leaving server still forks what it was asked to: its reports are read until it has hung up.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from msgspec import structs

from shmq.supervisor import forkserver
from shmq.supervisor.forkserver import Failed, Forked, ForkServer, Late, Ready, Report, Setting, Unborn
from shmq.supervisor.pools.endings import describe
from shmq.supervisor.pools.pools import Pools

_log = logging.getLogger("shmq.supervisor")
_LONGEST_PAUSE_S = 5.0
_QUICK_DEATH_S = 5.0


class Servers:
    """All fork servers of one supervisor, at most one in charge and one coming.

    Args:
        watch, unwatch: add a descriptor to the supervisor's poll, and take it out.
        ready: called when new code is in charge.
        give_up: called, with the reason, when the very first import fails.
    """

    def __init__(
        self,
        setting: Setting,
        pools: Pools,
        *,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        ready: Callable[[], None],
        give_up: Callable[[str], None],
    ) -> None:
        self._setting = self._asked = setting  # of the one in charge, of the next one
        self._pools = pools
        self._watch, self._unwatch = watch, unwatch
        self._ready, self._give_up = ready, give_up
        self._all: list[ForkServer] = []
        self._coming: ForkServer | None = None
        self._statuses: dict[int, int] = {}
        self._has_been_ready = False
        self._failures_in_a_row = 0
        self._start_at = float("inf")
        self._ready_at = 0.0
        self._is_closed = False
        self.refused = ""  # why the last reload changed nothing

    def start(self, late: tuple[str, ...] = ()) -> None:
        """Fork a server that imports the task modules, all but the `late` ones."""
        self._start_at = float("inf")
        server = forkserver.start(replace(self._asked, late=late))
        self._coming = server
        self._all.append(server)
        self._watch(server.socket.fileno(), self.read)

    @property
    def is_settled(self) -> bool:
        """One in charge, and nothing to be done about any other."""
        return [self._pools.fork_server] == self._all and self._coming is None

    def reload(self, modules: tuple[str, ...]) -> bool:
        """Import these modules, anew; on success all workers are replaced, on failure nothing changes.

        False when that is under way already.
        """
        if self._coming is not None or self._is_closed:
            return False
        _log.info("reload: importing the task modules anew")
        self.refused = ""
        self._asked = replace(self._setting, config=structs.replace(self._setting.config, tasks=modules))
        self.start()
        return True

    def keep_one(self) -> None:
        """Start one when it is due after a failure; end one that hung up without ending."""
        if self._coming is None and time.monotonic() >= self._start_at:
            self.start()
        elif self._coming is not None and self._coming.is_over and self._coming.pid not in self._statuses:
            os.kill(self._coming.pid, signal.SIGKILL)  # our own unreaped child: its module closed our descriptor

    def read(self) -> None:
        """Take all reports that have arrived."""
        for server in list(self._all):
            for report in server.reports():
                self._take(server, report)
            if server.is_over:
                self._hung_up(server)

    def reaped(self, pid: int, status: int) -> bool:
        """A child was reaped. True when it was a fork server."""
        known = [*self._all, *([self._coming] if self._coming is not None else [])]
        server = next((s for s in known if s.pid == pid), None)
        if server is None:
            return False
        self._statuses[pid] = status
        if server is self._pools.fork_server:  # do not wait for its end of file: it cannot fork any more
            self._lost_the_one_in_charge(status)
        elif server is self._coming and server.is_over:
            self._never_came(server)
        return True

    def pids(self) -> list[int]:
        """Pids of fork servers that were not reaped yet."""
        return [server.pid for server in self._all if server.pid not in self._statuses]

    def close(self) -> None:
        """Hang up on all: each ends by itself. None is started any more."""
        self._is_closed, self._start_at = True, float("inf")
        for server in self._all:
            server.hang_up()

    # -- reports -------------------------------------------------------------------------

    def _take(self, server: ForkServer, report: Report) -> None:
        match report:
            case Forked(index=index, pid=pid):
                self._pools.forked(server, index, pid)
            case Unborn(index=index, why=why):
                self._pools.unborn(server, index, why)
            case Ready(tasks=tasks) if server is self._coming:
                self._put_in_charge(server, tasks)
            case Late(modules=modules) if server is self._coming:
                self._leave_out(modules)
            case Failed(why=why) if server is self._coming:
                self._refuse(why)
            case _:
                return

    def _put_in_charge(self, server: ForkServer, tasks: int) -> None:
        """New code: workers of the old are replaced one by one."""
        old, self._coming, self._setting = self._pools.fork_server, None, self._asked
        self._pools.fork_server = server
        self._pools.generation += 1
        self._has_been_ready, self._ready_at = True, time.monotonic()
        if old is not None:
            old.hang_up()
        _log.info("%d tasks of %s are ready", tasks, ", ".join(self._setting.config.tasks) or "no module")
        self._ready()

    def _leave_out(self, modules: list[str]) -> None:
        assert self._coming is not None
        _log.warning(
            "task modules %s start threads when imported: each worker imports them after its fork, which "
            "makes workers start slower. Start threads on first use instead.",
            ", ".join(modules),
        )
        self._coming.hang_up()
        self.start(tuple(modules))

    def _refuse(self, why: str) -> None:
        """The coming server is none: the first one ends the start, a later one changes nothing."""
        if self._coming is not None:
            self._coming.hang_up()
        self._coming, self.refused, self._asked = None, why, self._setting
        if not self._has_been_ready:
            self._give_up(f"{why}\nNothing was started. Correct that, then start again.")
        elif self._pools.fork_server is None:
            _log.error("no new workers for now, those that run go on; tried again in %.1f s: %s", self._pause(), why)
        else:
            _log.error("reload refused, the old code goes on: %s", why)

    # -- ends ----------------------------------------------------------------------------

    def _hung_up(self, server: ForkServer) -> None:
        """Nobody can report for it any more."""
        self._unwatch(server.socket.fileno())
        server.socket.close()
        self._all.remove(server)
        self._pools.abandon(server)
        status = self._statuses.get(server.pid)
        if server is self._pools.fork_server:
            self._lost_the_one_in_charge(status)
        elif server is self._coming and status is not None:
            self._never_came(server)
        elif server is not self._coming:
            self._statuses.pop(server.pid, None)

    def _never_came(self, server: ForkServer) -> None:
        """It has hung up and was reaped before it was ready."""
        status = self._statuses.pop(server.pid)
        self._refuse(f"the fork server ended while it imported the task modules ({describe(status)})")

    def _lost_the_one_in_charge(self, status: int | None) -> None:
        """Workers go on without it; the next fork needs a new one."""
        self._pools.fork_server = None
        if self._is_closed:
            return
        _log.warning("the fork server ended%s: restarted", "" if status is None else f" ({describe(status)})")
        if time.monotonic() - self._ready_at > _QUICK_DEATH_S:
            self._failures_in_a_row = 0
        if self._coming is None:
            self._pause()

    def _pause(self) -> float:
        """Arrange the next start: at once after a first failure, then slower and slower."""
        pause = min(0.1 * 2**self._failures_in_a_row, _LONGEST_PAUSE_S) if self._failures_in_a_row else 0.0
        self._failures_in_a_row = min(self._failures_in_a_row + 1, 10)
        self._start_at = time.monotonic() + pause
        return pause
