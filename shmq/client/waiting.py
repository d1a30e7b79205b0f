"""How threads of a producer wait: one sleeps on the row's bell, the others wait for that one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from shmq.clock import now_ns
from shmq.errors import ClientClosed, Detached
from shmq.memory.doorbell import RESCUE_S
from shmq.memory.fence import new_fence
from shmq.transport.bells import QUICK_NS
from shmq.transport.membership import ProducerRow
from shmq.transport.promises import Promises
from shmq.transport.tries import Tries

_CHECK_EVERY_S = 1.0


class Waiter:
    """Waits for conditions that workers make true and ring for.

    Args:
        promises: what rings were left out for, to see to it while a thread waits.
        rung: called by who waits after each ring that did not bring it, and now and then.
        before_sleep: called by who waits before its first sleep.
    """

    def __init__(
        self, row: ProducerRow, promises: Promises, rung: Callable[[], None], before_sleep: Callable[[], None]
    ) -> None:
        self._row = row
        self._promises = promises
        self._rung, self._before_sleep = rung, before_sleep
        self._leader = threading.RLock()
        self._followers: deque[threading.Lock] = deque()  # each held until its thread is told
        self._fence = new_fence()  # used by the leader only
        self._looks = Tries(1, 8)  # of `_comes_soon`
        self.rescues = 0
        self.is_closing = self.is_closed = False

    def wait(self, is_ready: Callable[[], bool], deadline: float) -> bool:
        """Return True once `is_ready()`, False when `time.monotonic()` passes `deadline`.

        Raises:
            Detached: the segment's name is gone, so nobody will ever ring again.
        """
        while not is_ready():
            if deadline <= time.monotonic():
                return False
            is_leader = False
            try:
                is_leader = self._leader.acquire(blocking=False)
                if is_leader and self._lead(is_ready, deadline):
                    return True
            finally:
                self._resign()
            if not is_leader:
                self._follow(is_ready, deadline)
                self._rung()
        return True

    def close(self) -> None:
        """Return once no thread sleeps on the bell any more: it may be closed then."""
        self.is_closing = True
        self._row.bell.notify()
        with self._leader:
            self.is_closed = True

    def _lead(self, is_ready: Callable[[], bool], deadline: float) -> bool:
        """Sleep on the row's bell until `is_ready()` or the deadline; wake followers each time it rings."""
        if self.is_closed:
            raise ClientClosed("this client was closed while a thread waited for it; connect again")
        row, check_at, has_slept = self._row, time.monotonic() + _CHECK_EVERY_S, False
        try:
            while True:
                row.begin_wait()
                self._fence()  # SYNC POINT: doorbell — this wait is visible before whatever we look at
                self._tell_followers()  # their looks come after it as well: the former wait is not rung once more
                if is_ready():
                    return True
                if self.is_closing:
                    return False
                (self._rung if has_slept else self._before_sleep)()
                if self._sleep(is_ready, deadline):
                    return True
                has_slept, now = True, time.monotonic()
                if now >= check_at:
                    self._check_attached()
                    check_at = now + _CHECK_EVERY_S
                if now >= deadline:
                    return is_ready()
        finally:
            row.end_wait()

    def _sleep(self, is_ready: Callable[[], bool], deadline: float) -> bool:
        """Until the bell rings, a while has passed or the deadline has come; is it ready?"""
        bell = self._row.bell
        left = deadline - time.monotonic()
        if self._promises.believed:
            left = min(left, self._promises.settle())
        is_rung = left > 0 and (bell.doze() if left >= RESCUE_S else bell.wait(left))
        if not (is_ready() or (is_rung and not self._followers and self._comes_soon(is_ready))):
            return False
        if not is_rung and left >= RESCUE_S and not bell.wait(0):  # a whole bounded sleep: a ring was lost
            self.rescues += 1
        return True

    def _comes_soon(self, is_ready: Callable[[], bool]) -> bool:
        """Look for a while: who was rung early must not sleep again just before the job ends.

        Most rings may be for others: for jobs of this producer that no thread waits for.
        """
        if not self._looks.is_due():
            return False
        give_up = now_ns() + QUICK_NS
        while now_ns() < give_up:
            if is_ready():
                self._looks.worked()
                return True
        self._looks.was_in_vain()
        return False

    def _resign(self) -> None:
        """Let go of the lead if this thread has it: a signal handler may raise right after the acquire."""
        if self._leader._is_owned():  # type: ignore[attr-defined]
            self._leader.release()
            self._tell_followers()

    def _is_led(self) -> bool:
        try:
            return not self._leader.acquire(blocking=False)
        finally:
            if self._leader._is_owned():  # type: ignore[attr-defined]
                self._leader.release()

    def _follow(self, is_ready: Callable[[], bool], deadline: float) -> None:
        """Sleep until the leader was rung or has left, at most RESCUE_S.

        Leader and followers share no lock: one that a signal handler's exception left locked would hold up all.
        """
        told = threading.Lock()
        told.acquire()
        self._followers.append(told)  # whatever comes after the next line's looks is told
        try:
            if self._is_led() and not is_ready():
                told.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), RESCUE_S, self._promises.settle()))
        finally:
            with suppress(ValueError):  # it was told
                self._followers.remove(told)

    def _tell_followers(self) -> None:
        while self._followers:
            with suppress(IndexError):  # the last one gave up meanwhile
                self._followers.popleft().release()

    def _check_attached(self) -> None:
        if not self._row.segment.is_linked():
            raise Detached(
                f"{self._row.segment.path} was removed while in use (logout with RemoveIPC=yes, a cleaner of "
                "/dev/shm, or a new supervisor with another configuration).\n"
                "Connect again; jobs in the removed segment are finished only if its workers still run."
            )
