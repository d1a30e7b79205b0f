"""The thread that runs done-callbacks: it sleeps in poll on the row's FIFO."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

from shmq.memory.doorbell import RESCUE_S
from shmq.transport.bells import open_poll_bell
from shmq.transport.membership import ProducerRow
from shmq.transport.promises import Promises


class Poller:
    """Calls `look` whenever workers have rung, and at least every RESCUE_S; sees to promises. A daemon thread."""

    def __init__(self, row: ProducerRow, promises: Promises, look: Callable[[], None]) -> None:
        self._row = row
        self._promises = promises
        self._look = look
        self._bell = open_poll_bell(row.segment, row.index)
        self._is_stopped = self._sleeps_long = False
        row.set("polling", 1)
        self._thread = threading.Thread(target=self._run, name="shmq-poller", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while not self._is_stopped:
            self._look()
            self._sleeps_long = True  # before the look at what is believed: whoever believes more wakes it
            left_s = self._promises.settle()
            self._sleeps_long = left_s > RESCUE_S
            if poll.poll(min(RESCUE_S, left_s) * 1000):
                self._bell.clear()

    def see_to_promises(self) -> None:
        """A ring was left out for what it is to look after: wake it if it sleeps for longer than that may take."""
        if self._sleeps_long:
            self._sleeps_long = False
            self._bell.notify()

    def stop(self) -> None:
        """End the thread. A second stop is fine."""
        self._is_stopped = True
        self._row.set("polling", 0)
        self._bell.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._bell.unlink()
        self._bell.close()
