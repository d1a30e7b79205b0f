"""Whom to ring: doorbells of workers, producers, supervisor and recovery, opened once and kept."""

from __future__ import annotations

from pathlib import Path

from shmq.cores import core
from shmq.memory.doorbell import BellClosed, Doorbell, FifoBell, NoBell, open_bell
from shmq.memory.layout import PRODUCER, PRODUCER_WORDS, WORKER, WORKER_FREE, WORKER_WORDS
from shmq.memory.segment import Segment

QUICK_NS = 20_000
"""A quicker job is tiny: its producer may be rung before it is claimed, and looks for its end for so long."""
_WORKER_SERIAL = WORKER["bell_serial"]
_WAITING, _POLLING, _SERIAL, _CORE = (PRODUCER[n] for n in ("waiting", "polling", "bell_serial", "core"))


class Bells:
    """Rings by row index. A row's bell is opened again when its serial says it is a new one."""

    def __init__(self, segment: Segment, producer: int | None = None) -> None:
        """`producer`: the caller's own row, where each ring notes its core for who makes way (`worker.making_way`)."""
        self._segment = segment
        self._producers = segment.view("producer_rows")
        self._workers = segment.view("worker_rows")
        self._folder = str(segment.state_dir)
        self._open: dict[str, Doorbell] = {}
        self._of_worker: dict[int, tuple[int, Doorbell]] = {}
        self._of_producer: dict[int, tuple[int, Doorbell]] = {}
        self._of_poller: dict[int, tuple[int, Doorbell]] = {}
        self.naps = self._workers[WORKER["naps"] :: WORKER_WORDS]  # by worker row
        self.rung: dict[int, int] = {}  # the nap in which a worker row was rung last
        self.rung_waits: dict[int, int] = {}  # by producer row: the wait in which it was rung last
        self._own_at = None if producer is None else producer * PRODUCER_WORDS
        self._find = segment.map.find
        layout = segment.layout
        first, width = layout.offsets["sleeping"], layout.sleepers
        self._sleepers = [
            (first + g * width, first + g * width + 1 + segment.shape.workers) for g in range(segment.shape.groups)
        ]

    def sleepers(self, group: int) -> tuple[int, int]:
        """Bounds of the group's sleeping bytes in the mapping, for callers that look on their hot path."""
        return self._sleepers[group]

    def wake_one(self, group: int) -> None:
        """Wake one sleeper of the group, or the supervisor when the group has no worker.

        Caller must: have made the work visible and fenced before (SYNC POINT: doorbell).
        A worker that was rung in its present nap already needs no second ring: what was
        published before it clears its flag is seen by its next look.
        """
        first, last = self._sleepers[group]
        at = self._find(b"\1", first, last)
        if at >= 0:
            self.ring(at - first - 1)

    def ring(self, row: int) -> None:
        """Ring a sleeping worker once per nap; -1 is the supervisor, rung each time."""
        if row < 0:
            self.notify_supervisor()
            return
        nap = self.naps[row]
        if self.rung.get(row) == nap:
            return
        if self._own_at is not None:
            self._producers[self._own_at + _CORE] = core()
        known = self._of_worker.get(row)
        if known is None or known[0] != self._workers[row * WORKER_WORDS + _WORKER_SERIAL]:
            self.worker(row).notify()
        else:
            try:
                known[1].notify()
            except BellClosed:  # by another thread, a moment ago: the row is another worker's
                self.worker(row).notify()
        self.rung[row] = nap  # after the ring: a signal handler that raises between the two must not lose it

    def wake_all(self, group: int) -> None:
        """Wake every sleeper of the group (after a death, when limits change)."""
        first, last = self._sleepers[group]
        at = self._find(b"\1", first, last)
        while at >= 0:
            row = at - first - 1
            if row < 0:
                self.notify_supervisor()
            else:
                self.worker(row).notify()
            at = self._find(b"\1", at + 1, last)

    def worker(self, row: int) -> Doorbell:
        """Bell of a worker row."""
        serial = self._workers[row * WORKER_WORDS + WORKER["bell_serial"]]
        return self._cached(self._of_worker, "worker_bells", row, serial)

    def producer(self, row: int) -> Doorbell:
        """Bell of a producer row's waiting thread."""
        serial = self._producers[row * PRODUCER_WORDS + PRODUCER["bell_serial"]]
        return self._cached(self._of_producer, "producer_bells", row, serial)

    def notify_producer(self, row: int) -> None:
        """Ring whatever waits in the producer of the row: a thread, an event loop, or both.

        Caller must: have published the job word and fenced (SYNC POINT: doorbell).
        """
        producers, at = self._producers, row * PRODUCER_WORDS
        self.ring_waiting(row)
        if producers[at + _POLLING]:
            self._poll_bell(row).notify()

    def ring_waiting(self, row: int) -> int:
        """Ring the thread that waits in the producer of the row, once per wait. That wait's number, 0: nobody waits.

        Also before its job has ended, if that is soon: each wait begins with a look, so what becomes visible after
        the ring is seen by the look before the next one.
        """
        producers, at = self._producers, row * PRODUCER_WORDS
        wait = producers[at + _WAITING]
        if wait and self.rung_waits.get(row) != wait:
            known = self._of_producer.get(row)
            bell = self.producer(row) if known is None or known[0] != producers[at + _SERIAL] else known[1]
            bell.notify()
            if bell.__class__ is not NoBell:  # no descriptor was left: the next end tries again
                self.rung_waits[row] = wait
        return int(wait)

    def core_of(self, row: int) -> int:
        """Core on which a thread of the producer of the row last began to wait, or rang a worker. UNKNOWN perhaps."""
        return int(self._producers[row * PRODUCER_WORDS + _CORE])

    def notify_supervisor(self) -> None:
        """Wake the supervisor's loop."""
        self._named("supervisor.bell").notify()

    def notify_recovery(self) -> None:
        """Wake recovery: something is SCHEDULED, or a row died."""
        self._named("recovery.bell").notify()

    def _poll_bell(self, row: int) -> Doorbell:
        """FIFO of the row's holder. The next holder's has the same path but is another pipe."""
        serial = self._producers[row * PRODUCER_WORDS + PRODUCER["bell_serial"]]
        known = self._of_poller.get(row)
        if known is None or known[0] != serial or isinstance(known[1], NoBell):
            self._forget(self._of_poller, row)
            known = self._of_poller[row] = (serial, open_bell(str(poll_bell_path(Path(self._folder), row))))
        return known[1]

    def _named(self, name: str) -> Doorbell:
        bell = self._open.get(name)
        if bell is None or isinstance(bell, NoBell):
            bell = self._open[name] = open_bell(f"{self._folder}/{name}")
        return bell

    def _cached(self, cache: dict[int, tuple[int, Doorbell]], names: str, row: int, serial: int) -> Doorbell:
        known = cache.get(row)
        if known is None or known[0] != serial:
            self._forget(cache, row)
            if cache is self._of_worker:
                self._forget_ended_workers()
            known = (serial, open_bell(self._segment.text(names, row)))
            if not isinstance(known[1], NoBell):  # it may be this process that had no descriptor left: try again
                cache[row] = known
        return known[1]

    @staticmethod
    def _forget(cache: dict[int, tuple[int, Doorbell]], row: int) -> None:
        """Out of the cache, then closed: whichever thread takes it out closes it, once."""
        known = cache.pop(row, None)
        if known is not None:
            known[1].close()

    def _forget_ended_workers(self) -> None:
        """Workers come and go through many rows: a pipe kept for each row ever used would be a leak."""
        states = self._workers[WORKER["state"] :: WORKER_WORDS]
        for row in [row for row in list(self._of_worker) if states[row] == WORKER_FREE]:
            self._forget(self._of_worker, row)


def concurrent_bell_path(state_dir: Path, row: int) -> Path:
    """FIFO of a worker of a group with `concurrency`."""
    return state_dir / f"worker-{row}.bell"


def poll_bell_path(state_dir: Path, row: int) -> Path:
    """FIFO of a producer that is woken through poll or an event loop."""
    return state_dir / f"producer-{row}.bell"


def open_poll_bell(segment: Segment, row: int) -> FifoBell:
    """Make the FIFO of this process's producer row. Caller must: hold the row."""
    return FifoBell(poll_bell_path(segment.state_dir, row), create=True)
