"""Whoever starts, stops and buries processes; and who meddles from outside."""

from __future__ import annotations

from tests.crash.model.actors.shared import look, read_word
from tests.crash.model.automaton import Steps
from tests.crash.model.monitor import OWES
from tests.crash.model.ops import (
    fence,
    freeze,
    kill,
    load,
    lock,
    note,
    post,
    reap,
    spawn,
    store,
    thaw,
    unlock,
    until,
    wait,
)
from tests.crash.model.world import LAST_MOMENT, ROW_DEAD, ROW_FREE, RUNNING, World, owner_of, state_of


def supervisor(w: World, a: int) -> Steps[None]:
    """Reap; a worker's row is marked DEAD, recovery is started again."""
    while True:
        child = yield reap()
        if w.home[child] < 0:
            yield spawn(child)


def hasty_supervisor(w: World, a: int, row: int) -> Steps[None]:
    """A mutant: a worker that was silent for long is called dead."""
    if not w.is_mutant("redeliver_without_proof"):
        return
    yield store(w.row[row], ROW_DEAD)
    yield post(w.bell[w.actor("recovery")])


def replacer(w: World, a: int, row: int, child: int) -> Steps[None]:
    """Starts the next worker of a row as soon as the row is FREE (a mutant: as soon as it is DEAD)."""
    yield until(w.row[row], ROW_DEAD if w.is_mutant("row_reused_early") else ROW_FREE)
    yield spawn(child)


def killer(w: World, a: int, slot: int, child: int) -> Steps[None]:
    """A job is past its limit: stop its worker, look again, kill only if it is still in that job."""
    running = yield from read_word(w, slot)
    if state_of(running) != RUNNING or owner_of(running) != w.home[child]:
        return
    is_stopped = yield freeze(child)
    if not is_stopped:
        return
    again = yield from read_word(w, slot)
    if again == running or w.is_mutant("kill_without_second_look"):
        yield kill(child, slot)
    else:
        yield thaw(child)


def stopper(w: World, a: int, child: int) -> Steps[None]:
    """Stops a worker for good. What it has leased waits for it; a bounded sleep must find all else."""
    is_stopped = yield freeze(child)
    if is_stopped:
        yield note(OWES, 1)


def clock(w: World, a: int) -> Steps[None]:
    """Time, as far as promises need it: any step may fall into any moment."""
    for moment in range(1, LAST_MOMENT + 1):
        yield store(w.clock, moment)


def dismisser(w: World, a: int, row: int) -> Steps[None]:
    """Tells an idle worker to leave (the pool shrinks)."""
    yield store(w.leave[row], 1)
    yield post(w.bell[w.actor(f"worker{row}")])


def scaler(w: World, a: int) -> Steps[None]:
    """The supervisor of a group that may have no worker: then entry 0 of the sleeping bytes is its own."""
    yield reap()
    if w.is_mutant("look_before_entry_0"):
        found = yield from look(w, 0)
        yield store(w.sleeping[0], 1)
        yield fence()
    else:
        yield store(w.sleeping[0], 1)
        yield fence()  # SYNC POINT: doorbell
        found = yield from look(w, 0)
    if not found:
        yield wait(w.bell[a])
    yield store(w.sleeping[0], 0)
    yield spawn(w.actor("worker1b"))


def new_supervisor(w: World, a: int) -> Steps[None]:
    """The old one was killed: raise the epoch, kill who holds the worker's byte, take it as proof."""
    yield store(w.epoch, 1)
    yield fence()
    holder = yield load(w.worker_lock[0])
    if holder:
        yield kill(holder - 1)
    yield lock(w.worker_lock[0])
    yield store(w.row[0], ROW_DEAD)
    yield unlock(w.worker_lock[0])
    yield post(w.bell[w.actor("recovery")])


def meddler(w: World, a: int, lock_cell: int) -> Steps[None]:
    """User code closes the lock file: the byte is free while its holder lives."""
    yield store(lock_cell, 0)
