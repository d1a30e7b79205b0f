"""Litmus tests: does this machine keep the orders of memory that shmq builds on?

Two processes, many rounds, the forbidden outcome counted. The forms are the classical ones of the
literature on memory models, store buffering (SB) and message passing (MP):

    SB    x = 1; fence; read y    |    y = 1; fence; read x     forbidden: both read the old value
          "the work is visible; who sleeps?"  against  "I sleep; is there work?"
    MP    data = n; flag = n      |    read flag; read data     forbidden: data older than flag
          payload before job word, job word before tail

SB without the fence must show the forbidden outcome now and then, else the test would find nothing.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

from shmq.memory.fence import new_fence

_ROUNDS = 1_000  # per fork
_SPINS, _YIELDS = 2_000, 100_000  # a partner that has not come after so many is dead
_READY, _VALUE, _SEEN = 0, 32, 64  # words; 16 of them, two cache lines, between those of the two sides
_APART = 16

Side = Callable[[memoryview, int], None]


@dataclass(frozen=True)
class Litmus:
    """One test. `side(words, 0)` and `side(words, 1)` run at once; `forbidden` counts what they saw."""

    title: str
    side: Side
    forbidden: Callable[[memoryview], int]
    must_hold: bool


@dataclass(frozen=True)
class Outcome:
    """What was seen."""

    rounds: int
    forbidden: int


def run(litmus: Litmus, *, seconds: float) -> Outcome:
    """Run rounds until the time is over, but at least some. Means nothing on a single processor.

    Caller must: have no other threads that hold locks (it forks).
    """
    give_up = time.monotonic() + seconds
    rounds = forbidden = 0
    while not rounds or time.monotonic() < give_up:
        forbidden += _run_once(litmus)
        rounds += _ROUNDS
    return Outcome(rounds, forbidden)


def _run_once(litmus: Litmus) -> int:
    with mmap.mmap(-1, 8 * (_SEEN + 2 * _ROUNDS)) as memory, memoryview(memory).cast("Q") as words:
        pid = os.fork()
        if not pid:
            try:
                litmus.side(words, 1)
            finally:
                os._exit(0)
        try:
            litmus.side(words, 0)
        finally:
            if not _ends(pid):
                os.kill(pid, signal.SIGKILL)  # our own child, not reaped yet
                _is_over(pid, 0)
        return litmus.forbidden(words)


def _ends(pid: int) -> bool:
    """Reap the child if it ends by itself within a second."""
    give_up = time.monotonic() + 1.0
    while not _is_over(pid, os.WNOHANG):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.0001)
    return True


def _is_over(pid: int, options: int) -> bool:
    try:
        return os.waitpid(pid, options)[0] != 0
    except ChildProcessError:  # SIGCHLD is ignored (by whoever started this): the kernel has reaped it
        return True


def _meet(words: memoryview, me: int, round_: int) -> None:
    """Return at the same moment as the other side, as far as two processes can."""
    words[_READY + me * _APART] = round_
    other = _READY + (1 - me) * _APART
    for _ in repeat(None, _YIELDS):
        for _ in repeat(None, _SPINS):
            if words[other] >= round_:
                return
        os.sched_yield()  # perhaps both are on one processor at present
    raise TimeoutError("the other side of the litmus test is gone")


def _store_buffering(words: memoryview, me: int) -> None:
    mine, other = _VALUE + me * _APART, _VALUE + (1 - me) * _APART
    for i in range(1, _ROUNDS + 1):
        _meet(words, me, i)
        words[mine] = i
        words[_SEEN + 2 * i - 2 + me] = words[other]


def _store_buffering_fenced(words: memoryview, me: int) -> None:
    mine, other, fence = _VALUE + me * _APART, _VALUE + (1 - me) * _APART, new_fence()
    for i in range(1, _ROUNDS + 1):
        _meet(words, me, i)
        words[mine] = i
        fence()
        words[_SEEN + 2 * i - 2 + me] = words[other]


def _both_missed(words: memoryview) -> int:
    """Rounds in which neither side saw the other's store."""
    seen = words[_SEEN : _SEEN + 2 * _ROUNDS].tolist()
    return sum(left < i > right for i, (left, right) in enumerate(zip(seen[::2], seen[1::2], strict=True), 1))


def _message_passing(words: memoryview, me: int) -> None:
    data, flag = _VALUE, _VALUE + _APART
    _meet(words, me, 1)
    if me == 0:
        for i in range(1, _ROUNDS + 1):
            words[data] = i
            words[flag] = i
        return
    stale = 0
    for _ in repeat(None, _SPINS * _YIELDS):
        announced = words[flag]
        if words[data] < announced:
            stale += 1
        if announced == _ROUNDS:
            break
    words[_SEEN] = stale


def _stale(words: memoryview) -> int:
    """How often data was older than the flag that announced it."""
    return int(words[_SEEN])


FENCED = Litmus("store buffering, with the fence", _store_buffering_fenced, _both_missed, must_hold=True)
UNFENCED = Litmus("store buffering, without the fence", _store_buffering, _both_missed, must_hold=False)
MESSAGE = Litmus("message passing", _message_passing, _stale, must_hold=True)
LITMUSES = (MESSAGE, FENCED, UNFENCED)
