"""How threads of a producer wait: one sleeps on the row's bell, the others wait for that one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shmq.errors import ClientClosed, Detached
from shmq.memory.doorbell import RESCUE_S
from shmq.memory.fence import new_fence
from shmq.transport.membership import ProducerRow

_CHECK_EVERY_S = 1.0


class Waiter:
    """Waits for conditions that workers make true and ring for.

    Args:
        rung: called by who waits after each ring that did not bring it, and now and then.
    """

    def __init__(self, row: ProducerRow, rung: Callable[[], None]) -> None:
        self._row = row
        self._rung = rung
        self._leader = threading.RLock()
        self._handed_out = threading.Condition()
        self._followers = 0
        self._fence = new_fence()  # used by the leader only
        self.rescues = 0
        self.is_closed = False

    def wait(self, is_ready: Callable[[], bool], deadline: float) -> bool:
        """Return True once `is_ready()`, False when `time.monotonic()` passes `deadline`.

        Raises:
            Detached: the segment's name is gone, so nobody will ever ring again.
        """
        check_at = time.monotonic() + _CHECK_EVERY_S
        has_slept = False
        while not is_ready():
            if has_slept:
                self._rung()
            now = time.monotonic()
            if now >= deadline:
                return False
            if now >= check_at:
                self._check_attached()
                check_at = now + _CHECK_EVERY_S
            slice_s = min(deadline - now, RESCUE_S)
            try:
                is_leader = self._leader.acquire(blocking=False)
                if is_leader:
                    self._sleep(is_ready, slice_s)
            finally:
                self._resign()
            if not is_leader:
                self._follow(slice_s)
            has_slept = True
        return True

    def close(self) -> None:
        """Return once no thread sleeps on the bell any more: it may be closed then."""
        self._row.bell.notify()
        with self._leader:
            self.is_closed = True

    def _sleep(self, is_ready: Callable[[], bool], slice_s: float) -> None:
        if self.is_closed:
            raise ClientClosed("this client was closed while a thread waited for it; connect again")
        self._row.set("waiting", 1)
        self._fence()  # SYNC POINT: doorbell — "I wait" is visible before the second look
        try:
            if is_ready():
                return
            if not self._row.bell.wait(slice_s) and is_ready() and not self._row.bell.wait(0):
                self.rescues += 1
        finally:
            self._row.set("waiting", 0)

    def _resign(self) -> None:
        """Let go of the lead if this thread has it: a signal handler may raise right after the acquire."""
        if self._leader._is_owned():  # type: ignore[attr-defined]
            self._leader.release()
            if self._followers:
                with self._handed_out:
                    self._handed_out.notify_all()

    def _follow(self, slice_s: float) -> None:
        with self._handed_out:
            try:
                if self._leader.acquire(blocking=False):  # the leader left: lead instead of waiting for nobody
                    return
            finally:
                if self._leader._is_owned():  # type: ignore[attr-defined]
                    self._leader.release()
            self._followers += 1
            try:
                self._handed_out.wait(slice_s)
            finally:
                self._followers -= 1

    def _check_attached(self) -> None:
        if not self._row.segment.is_linked():
            raise Detached(
                f"{self._row.segment.path} was removed while in use (logout with RemoveIPC=yes, a cleaner of "
                "/dev/shm, or a new supervisor with another configuration).\n"
                "Connect again; jobs in the removed segment are finished only if its workers still run."
            )
