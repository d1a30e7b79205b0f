"""Resident helper processes: forked from the clean supervisor, restarted when they end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from shmq import kernel

_log = logging.getLogger("shmq.supervisor")
_LONGEST_PAUSE_S = 5.0


@dataclass
class Helper:
    """One helper: its name and what it runs. `start()` never blocks."""

    name: str
    main: Callable[[], None]
    pid: int = 0
    started_at: float = 0.0
    deaths_in_a_row: int = 0
    restart_at: float = 0.0

    def start(self) -> None:
        """Fork the helper. It dies with the supervisor."""
        supervisor = os.getpid()
        sys.stderr.flush()
        self.started_at = time.monotonic()
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            import setproctitle

            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            setproctitle.setproctitle(f"shmq: {self.name}")
            if kernel.die_with_parent(supervisor):
                self.main()
            status = 0
        except BaseException:  # noqa: BLE001 - last frame of the process
            _log.exception("%s broke", self.name)
        finally:
            os._exit(status)

    def died(self, status: int) -> None:
        """It was reaped: restart at once, slower and slower when it keeps dying young."""
        lived = time.monotonic() - self.started_at
        self.deaths_in_a_row = self.deaths_in_a_row + 1 if lived < 1.0 else 0
        pause = 0.0 if self.deaths_in_a_row < 3 else min(0.05 * 2**self.deaths_in_a_row, _LONGEST_PAUSE_S)
        self.pid, self.restart_at = 0, time.monotonic() + pause
        _log.warning("%s ended with status %#x after %.1f s: restarted in %.1f s", self.name, status, lived, pause)

    def keep_alive(self) -> None:
        """Start it when it is due."""
        if not self.pid and time.monotonic() >= self.restart_at:
            self.start()

    def kill(self) -> None:
        """End it; our own unreaped child, so the pid is its own."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
