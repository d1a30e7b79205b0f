"""Litmus tests of this machine's memory: does it reorder, and does the fence stop it?

Two processes, pinned to two processors, meet in shared memory round after round.

    store buffering (doorbell, cancel)        message passing (slot-visible, lane-visible)
    A: x = i; fence; read y                   A: x = i; fence; y = i
    B: y = i; fence; read x                   B: read y; fence; read x
    both read the old value: forbidden        new y, old x: forbidden

Without the fence, store buffering fails on every x86 and ARM processor, message passing on ARM only:
a test that never fails without it proves nothing with it. Only the standard library is used.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

STORE_BUFFERING, MESSAGE_PASSING = "store buffering", "message passing"

_LINE = 64  # bytes; 128 keeps the neighbour that is fetched along apart
_STRIDE = 2 * _LINE // 8  # words from one cell to the next
_CELLS = 64  # rounds that use cells of their own, in turn: each line is cold enough to be slow
_STALLED_SPINS = 100_000  # spins after which the partner may be dead
_DELAYS = 13  # different head starts, so that both sides meet at each distance

Fence = Callable[[], object]
Cells = memoryview


@dataclass(frozen=True)
class Outcome:
    """How often the forbidden was seen."""

    shape: str
    fenced: bool
    rounds: int
    forbidden: int

    def __str__(self) -> str:
        fence = "with" if self.fenced else "without"
        return f"{self.shape} {fence} fence: {self.forbidden} of {self.rounds} rounds reordered"


def new_fence() -> Fence:
    """Release, then acquire, a private held lock: a full fence on x86-64 and in the ARMv8 model."""
    lock = threading.Lock()
    lock.acquire()
    release, acquire = lock.release, lock.acquire

    def fence() -> None:
        release()
        acquire()

    return fence


def two_processors() -> tuple[int, int] | None:
    """Two processors this process may use, or None: on one, nothing can be seen reordered."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def hunt(shape: str, *, fenced: bool, least: int = 1, rounds: int = 10_000, limit_s: float = 60.0) -> Outcome:
    """Repeat `run` until the forbidden is seen `least` times or `limit_s` seconds have passed."""
    deadline = time.monotonic() + limit_s
    seen = total = 0
    while seen < least and time.monotonic() < deadline:
        outcome = run(shape, fenced=fenced, rounds=rounds)
        seen += outcome.forbidden
        total += outcome.rounds
    return Outcome(shape, fenced, total, seen)


def run(shape: str, *, fenced: bool, rounds: int = 20_000) -> Outcome:
    """Let the two meet `rounds` times: some 5 µs each, more when the processors are busy.

    Forks; the child runs nothing but its side.

    Raises:
        OSError: fewer than two processors may be used, or the partner died.
    """
    pair = two_processors()
    if pair is None:
        raise OSError("only one processor may be used: reordering cannot be seen. Allow two (taskset, cpuset).")
    allowed = os.sched_getaffinity(0)
    words = (2 * _CELLS + 4) * _STRIDE
    area = mmap.mmap(-1, 8 * (words + 2 * rounds))
    cells = memoryview(area).cast("Q")
    partner = os.fork()
    if not partner:
        _be_partner(shape, cells, words, rounds, fenced=fenced, processor=pair[1])
    try:
        os.sched_setaffinity(0, {pair[0]})
        _SIDES[shape][0](_Side(cells, words, rounds, 0, partner), new_fence() if fenced else None)
    except BaseException:
        os.kill(partner, signal.SIGKILL)
        raise
    finally:
        os.sched_setaffinity(0, allowed)
        status = os.waitpid(partner, 0)[1]
    if status:
        raise OSError(f"the litmus partner ended with status {status}: it was killed, or ran out of memory.")
    forbidden = _forbidden(shape, cells, words, rounds)
    cells.release()
    area.close()
    return Outcome(shape, fenced, rounds, forbidden)


def _be_partner(shape: str, cells: Cells, words: int, rounds: int, *, fenced: bool, processor: int) -> None:
    status = 1
    try:
        os.sched_setaffinity(0, {processor})
        _SIDES[shape][1](_Side(cells, words, rounds, 1, os.getppid()), new_fence() if fenced else None)
        status = 0
    finally:
        os._exit(status)


class _Side:
    """One of the two: where its cells are, and the meeting at the start of each round."""

    def __init__(self, cells: Cells, words: int, rounds: int, me: int, partner: int) -> None:
        self.cells = cells
        self.rounds = rounds
        self.x = [(2 * i) * _STRIDE for i in range(_CELLS)]
        self.y = [(2 * i + 1) * _STRIDE for i in range(_CELLS)]
        self.seen = words + me * rounds  # what this side read, round by round
        self._mine, self._theirs = ((2 * _CELLS + turn) * _STRIDE for turn in ((0, 1) if not me else (1, 0)))
        self._is_child, self._partner = bool(me), partner

    def meet(self, turn: int) -> None:
        """Wait until both are at this turn; then a short head start for one of them."""
        self.cells[self._mine] = turn
        self.spin(self._theirs, turn)
        for _ in range(turn % _DELAYS if self._is_child else _DELAYS // 2):
            pass

    def spin(self, cell: int, turn: int) -> None:
        """Until the partner has written the turn there."""
        cells, spins = self.cells, 0
        while cells[cell] < turn:
            spins += 1
            if spins == _STALLED_SPINS:
                spins = 0
                self._look_after_partner()

    def _look_after_partner(self) -> None:
        if self._is_child:
            if os.getppid() != self._partner:
                os._exit(2)
        elif os.waitid(os.P_PID, self._partner, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise OSError("the litmus partner died: it was killed, or ran out of memory.")


def _store_then_load(side: _Side, mine: list[int], theirs: list[int], fence: Fence | None) -> None:
    cells, seen, meet = side.cells, side.seen, side.meet
    for turn in range(1, side.rounds + 1):
        store, load = mine[turn % _CELLS], theirs[turn % _CELLS]
        meet(turn)
        cells[store] = turn
        if fence is not None:
            fence()
        value = cells[load]
        cells[seen + turn - 1] = value


def _send(side: _Side, fence: Fence | None) -> None:
    cells, x, y, meet = side.cells, side.x, side.y, side.meet
    for turn in range(1, side.rounds + 1):
        data, flag = x[turn % _CELLS], y[turn % _CELLS]
        meet(turn)
        cells[data] = turn
        if fence is not None:
            fence()
        cells[flag] = turn


def _receive(side: _Side, fence: Fence | None) -> None:
    """What is kept of a round: 1 when the flag was new and the data old."""
    cells, x, y, meet, spin = side.cells, side.x, side.y, side.meet, side.spin
    for turn in range(1, side.rounds + 1):
        data, flag = x[turn % _CELLS], y[turn % _CELLS]
        meet(turn)
        spin(flag, turn)
        if fence is not None:
            fence()
        cells[side.seen + turn - 1] = cells[data] != turn


def _forbidden(shape: str, cells: Cells, words: int, rounds: int) -> int:
    if shape == MESSAGE_PASSING:
        return sum(cells[words + rounds : words + 2 * rounds].tolist())
    first, second = cells[words : words + rounds].tolist(), cells[words + rounds : words + 2 * rounds].tolist()
    return sum(turn not in (a, b) for turn, (a, b) in enumerate(zip(first, second, strict=True), 1))


_SIDES: dict[str, tuple[Callable[[_Side, Fence | None], None], Callable[[_Side, Fence | None], None]]] = {
    STORE_BUFFERING: (
        lambda side, fence: _store_then_load(side, side.x, side.y, fence),
        lambda side, fence: _store_then_load(side, side.y, side.x, fence),
    ),
    MESSAGE_PASSING: (_send, _receive),
}
