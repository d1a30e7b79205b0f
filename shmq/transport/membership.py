"""Producer rows: who holds one, who may take a dead one's over, and what that takes.

A row is free to take when its byte can be locked *and* no process with the row's pid and start
ticks maps the segment (`close()` of the lock file drops locks of a living process).
"""

from __future__ import annotations

import os
from pathlib import Path

from shmq import clock, probes
from shmq.cores import core
from shmq.errors import TooManyProducers
from shmq.memory import doorbell, locks
from shmq.memory.blocks import PRODUCER_PIN, SLOT_OF_TAG, BlockPool, pinned_units
from shmq.memory.doorbell import SemaphoreBell
from shmq.memory.layout import PRODUCER, PRODUCER_WORDS
from shmq.memory.segment import Segment
from shmq.refusal import told
from shmq.transport.bells import poll_bell_path
from shmq.transport.publish import Publisher
from shmq.transport.states import IS_FREE, IS_UNDER_WAY, count_where, slots_where
from shmq.transport.table import GENERATION_SHIFT, next_free
from shmq.wire.header import KIND_OFFSET, STREAM

_CORE, _WAITS = PRODUCER["core"], PRODUCER["waits"]


class ProducerRow:
    """A row held by this process: its index and its waiting thread's bell."""

    def __init__(self, segment: Segment, index: int) -> None:
        self.index = index
        self.segment = segment
        self._at = index * PRODUCER_WORDS
        self._rows = segment.view("producer_rows")
        self._waiting_at = self._at + PRODUCER["waiting"]
        self._waits = clock.now_ns()  # counts on from here: no holder of the row ever has the number of another's wait
        self.end_wait()
        self._rows[self._at + PRODUCER["polling"]] = 0
        self._rows[self._at + PRODUCER["ticks"]] = clock.start_ticks(os.getpid())
        self._rows[self._at + PRODUCER["pid"]] = os.getpid()
        # INVARIANT: a bell exists only while a row with a pid names it, so whoever takes the row over finds it
        segment.set_text("producer_bells", doorbell.new_name(segment.path.name), index)
        self.bell = SemaphoreBell(segment.text("producer_bells", index), create=True)
        self._rows[self._at + PRODUCER["bell_serial"]] += 1

    def set(self, word: str, value: int) -> None:
        """Write a word of the row."""
        self._rows[self._at + PRODUCER[word]] = value

    def begin_wait(self) -> None:
        """A thread is about to look, and then to sleep on the bell: a wait of its own number."""
        self._rows[self._at + _CORE] = core()
        self._waits += 1
        self._rows[self._at + _WAITS] = self._rows[self._waiting_at] = self._waits

    def end_wait(self) -> None:
        """No thread sleeps on the bell any more."""
        self._rows[self._at + _CORE] = core()  # it may have woken up on another one
        self._rows[self._waiting_at] = 0

    def release(self, lock_file: locks.LockFile, blocks: BlockPool) -> None:
        """Leave the row clean for the next holder, except jobs still on their way.

        While views of blocks live here the row stays this process's: its pins are theirs, and whoever took the row
        over would clear them.
        """
        self.end_wait()
        self.set("polling", 0)
        self.bell.unlink()
        self.bell.close()
        self.segment.set_text("producer_bells", "", self.index)
        key = (self.segment.path, self.index)

        def let_go() -> None:
            if _kept_for_views.pop(key, False):
                self.set("pid", 0)
                lock_file.release(locks.producer_byte(self.index))

        _kept_for_views[key] = True
        blocks.on_last_view = let_go
        if not blocks.has_views():
            let_go()


_kept_for_views: dict[tuple[Path, int], bool] = {}
"""Rows of closed clients of this process. Whoever pops the entry has the row: a new client, or the last view's end."""


def _forget_kept() -> None:
    """In a forked child: they are the parent's."""
    _kept_for_views.clear()


os.register_at_fork(after_in_child=_forget_kept)


def register(segment: Segment, lock_file: locks.LockFile) -> ProducerRow:
    """Take the dead or empty row with most FREE slots, or one that this process has kept for its views.

    Raises:
        TooManyProducers: living processes hold every row.
        SystemRefused: this process cannot have a doorbell (no space, no descriptors); no row is taken.
    """
    for path, index in list(_kept_for_views):
        if path == segment.path and _kept_for_views.pop((path, index), False):
            try:
                return _enter(segment, index, keep_pins=True)
            except BaseException:
                _kept_for_views[path, index] = True
                raise
    rows = range(segment.shape.producers)
    for index in sorted(rows, key=lambda row: count_where(segment, IS_FREE, *_slots(segment, row)), reverse=True):
        byte = locks.producer_byte(index)
        if not lock_file.try_acquire(byte):
            continue
        if is_holder_alive(segment, index):
            lock_file.release(byte)
            continue
        try:
            return _enter(segment, index)
        except BaseException:  # a signal handler's too
            lock_file.release(byte)
            raise
    raise TooManyProducers(
        f"all {segment.shape.producers} producer rows are held by living processes "
        "(a worker whose task submits jobs holds one too).\n"
        "Raise [memory] max_producers, or share one client between threads of a process."
    )


def _enter(segment: Segment, index: int, *, keep_pins: bool = False) -> ProducerRow:
    """Tidy the row and make it this process's. Caller must: hold its byte, and give it back when this is refused."""
    with told(f"this process cannot enter {segment.path} as a producer"):
        try:
            take_over(segment, index, keep_pins=keep_pins)
            return ProducerRow(segment, index)
        except BaseException:
            _drop_bell(segment, index)
            segment.view("producer_rows")[index * PRODUCER_WORDS + PRODUCER["pid"]] = 0
            raise


def _slots(segment: Segment, index: int) -> tuple[int, int]:
    """First slot of the row, and the one behind its last."""
    return index * segment.shape.slots_per_producer, (index + 1) * segment.shape.slots_per_producer


def is_holder_alive(segment: Segment, index: int) -> bool:
    """Does the process the row names still live and map the segment?"""
    rows, at = segment.view("producer_rows"), index * PRODUCER_WORDS
    pid, ticks = rows[at + PRODUCER["pid"]], rows[at + PRODUCER["ticks"]]
    if not 0 < pid < 2**31 or pid == os.getpid():
        return False
    return clock.start_ticks(pid) == ticks and probes.is_mapping(pid, str(segment.path))


def take_over(segment: Segment, index: int, *, keep_pins: bool = False) -> None:
    """Bring a dead producer's row to a state from which it can be used. Idempotent.

    Caller must: hold the row's byte and have proven its former holder dead, or its pins to be this process's.
    """
    if not keep_pins:
        pins = segment.view("pins")
        for unit in pinned_units(segment, PRODUCER_PIN, index + 1):
            pins[2 * unit + PRODUCER_PIN] = 0
    _close_streams(segment, index)
    publisher = Publisher(segment, index)
    publisher.finish_half_done_publishes()
    _end_unread(segment, publisher)
    _drop_bell(segment, index)
    poll_bell_path(segment.state_dir, index).unlink(missing_ok=True)
    rows, at = segment.view("producer_rows"), index * PRODUCER_WORDS
    for word in ("waiting", "polling", "pid", "ticks"):
        rows[at + PRODUCER[word]] = 0


def _drop_bell(segment: Segment, index: int) -> None:
    """The semaphore that the row names, if any."""
    name = segment.text("producer_bells", index)
    if name:
        if doorbell.is_semaphore(name):  # never a path: the text may be damaged
            doorbell.unlink(name)
        segment.set_text("producer_bells", "", index)


def _close_streams(segment: Segment, index: int) -> None:
    """Nobody reads on: a worker that waits for room looks at `cancel` and ends the job."""
    cancels, asks, words, payload = (segment.view(name) for name in ("cancels", "asks", "words", "payload"))
    stride = segment.shape.slot_bytes
    for slot in slots_where(segment, IS_UNDER_WAY, *_slots(segment, index)):
        generation = words[slot] >> GENERATION_SHIFT
        if asks[slot] == generation or payload[slot * stride + KIND_OFFSET] == STREAM:
            cancels[slot] = generation


def _end_unread(segment: Segment, publisher: Publisher) -> None:
    """Results nobody will read are freed; FREE slots that blocks were tagged with move on."""
    words = segment.view("words")
    for slot in publisher.ended():
        words[slot] = next_free(words[slot])
    for tag in set(segment.view("tags").tolist()):
        slot, generation = tag & SLOT_OF_TAG, tag >> 32
        if publisher.first <= slot < publisher.last and words[slot] == generation << 32:
            words[slot] = next_free(words[slot])
