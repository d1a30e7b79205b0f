"""Resident helper processes: forked from the clean supervisor, restarted when they end."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from shmq import kernel
from shmq.config.model import Config
from shmq.supervisor.pools.endings import describe

_log = logging.getLogger("shmq.supervisor")
_PLANNER_OOM_SCORE = 200  # workers: 300 by default


@dataclass
class Helper:
    """One helper: its name and what it runs. `start()` never blocks."""

    name: str
    main: Callable[[], None]
    keep: tuple[int, ...] = ()  # descriptors it needs; all others are closed in it
    pid: int = 0
    started_at: float = 0.0
    deaths_in_a_row: int = 0
    restart_at: float = 0.0
    is_wanted: bool = True
    longest_pause_s: float = 5.0

    def start(self) -> None:
        """Fork the helper. It dies with the supervisor."""
        supervisor = os.getpid()
        self.started_at = time.monotonic()
        self.pid = kernel.fork(keep=self.keep)
        if self.pid:
            return
        status = 1
        try:
            import setproctitle

            setproctitle.setproctitle(f"shmq: {self.name}")
            if kernel.die_with_parent(supervisor):
                self.main()
            status = 0
        except BaseException:
            _log.exception("%s broke", self.name)
        finally:
            os._exit(status)

    def died(self, status: int) -> None:
        """It was reaped: restart at once, slower and slower when it keeps dying young."""
        lived = time.monotonic() - self.started_at
        self.deaths_in_a_row = min(self.deaths_in_a_row + 1, 10) if lived < 1.0 else 0
        pause = 0.0 if self.deaths_in_a_row < 3 else min(0.05 * 2**self.deaths_in_a_row, self.longest_pause_s)
        self.pid, self.restart_at = 0, time.monotonic() + pause
        if self.is_wanted:
            _log.warning(
                "%s ended after %.1f s: %s; restarted %s",
                self.name, lived, describe(status), f"in {pause:.1f} s" if pause else "at once",
            )  # fmt: skip

    def keep_alive(self) -> None:
        """Start it when it is due."""
        if self.is_wanted and not self.pid and time.monotonic() >= self.restart_at:
            self.start()

    def kill(self) -> None:
        """End it for good; our own unreaped child, so the pid is its own."""
        self.is_wanted = False
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)


def recovery(segment_name: str, config: Config, lock_fd: int) -> Helper:
    """Recovery as a helper; what it needs (numpy) is imported in its own process only."""

    def main() -> None:
        from shmq.supervisor.recovery import Recovery

        Recovery(segment_name, config).run()

    return Helper("recovery", main, (lock_fd,), longest_pause_s=0.5)  # jobs of the dead wait for it: promised < 1 s


def planner(segment_name: str, config: Config, lock_fd: int) -> Helper:
    """The planner as a helper; without it the supervisor falls back to its reactive rule.

    The memory of a killed worker takes a moment to come free. If the kernel kills one more, then the one missed least.
    """

    def main() -> None:
        from shmq.planner.process import Planner

        kernel.prefer_for_oom(_PLANNER_OOM_SCORE)
        Planner(segment_name, config).run()

    return Helper("planner", main, (lock_fd,))
