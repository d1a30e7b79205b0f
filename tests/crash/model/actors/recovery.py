"""Recovery: redelivery after proven death, due jobs. Killable at any step.

row DEAD → LEASED | RUNNING of that row → REQUEUED → pushed
→ sleeping byte cleared → fence → sleepers and waiting producers rung → row FREE
"""

from __future__ import annotations

from tests.crash.model.actors.shared import read_word, waiter, wake_one, write_word
from tests.crash.model.automaton import Steps
from tests.crash.model.monitor import OWES, SETTLED
from tests.crash.model.ops import clear, fence, find, load, lock, note, post, store, sync, wait
from tests.crash.model.world import (
    FAILED,
    LEASED,
    REQUEUED,
    ROW_DEAD,
    ROW_FREE,
    RUNNING,
    SCHEDULED,
    World,
    crashes_of,
    group_of,
    moved,
    owner_of,
    state_of,
)

Slots = tuple[int, ...]


def recovery(w: World, a: int) -> Steps[None]:
    if not w.is_mutant("no_recovery_lock"):
        yield lock(w.recovery_lock)
    known = (0,) * len(w.scheduled)
    later: Slots = ()
    if not w.is_mutant("no_first_push"):
        later = yield from _push_requeued(w, a)
    yield note(SETTLED)
    if later:  # while its list is not empty it relies on bounded sleeps
        yield note(OWES, 1)
    scans = True
    while True:
        owed = len(later)
        buried, left = yield from _bury_dead(w, a)
        # whoever died may have written SCHEDULED and not yet counted it
        scans = scans or (buried and not w.is_mutant("death_forgets_scheduled"))
        later = (*later, *left)
        buried, left = False, ()
        if w.shape.retries or w.shape.slow or w.shape.delays:
            known, due = yield from _due(w, known, scans)
            later = (*later, *due)
            due = ()
            scans = False
        later = yield from _push_all(w, a, later)
        if bool(later) != bool(owed):
            yield note(OWES, 1 if later else -1)
        owed = 0
        yield wait(w.bell[w.actor("recovery")])
        if w.shape.clears:
            yield clear(w.bell[w.actor("recovery")])


def _bury_dead(w: World, a: int) -> Steps[tuple[bool, Slots]]:
    """Was anybody buried, and which slots found no room?"""
    later: Slots = ()
    buried = False
    while True:
        dead = yield find(ROW_DEAD, *w.row)
        if not dead:
            return buried, later
        buried = True
        yield sync()  # SYNC POINT: row-dead
        left = yield from bury(w, a, dead - 1)
        later = (*later, *left)


def _push_requeued(w: World, a: int) -> Steps[Slots]:
    """A fresh recovery knows nothing: everything REQUEUED is pushed again. Returns what found no room."""
    found: Slots = ()
    for slot in range(len(w.word)):
        value = yield from read_word(w, slot)
        if state_of(value) == REQUEUED:
            found = (*found, slot)
        value = 0
    left = yield from _push_all(w, a, found)
    return left


def bury(w: World, a: int, row: int) -> Steps[Slots]:
    """All that is left to do for a dead worker; the row last, so that a death here is repeated."""
    if w.is_mutant("row_freed_first"):
        yield store(w.row[row], ROW_FREE)
    again: Slots = ()
    for slot in range(len(w.word)):
        taken = yield from _redeliver(w, a, row, slot)
        if taken:
            again = (*again, slot)
        taken = False
    left = yield from _push_all(w, a, again)
    again = ()
    if w.is_mutant("ring_before_clear"):
        yield from _ring_all(w)
    if not w.is_mutant("dead_keeps_sleeping_byte"):
        yield store(w.sleeping[row], 0)
    if not w.is_mutant("no_fence_bury"):
        yield fence()  # SYNC POINT: doorbell
    if not (w.is_mutant("no_ring_after_death") or w.is_mutant("ring_before_clear")):
        yield from _ring_all(w)
    if not w.is_mutant("row_freed_first"):
        yield store(w.row[row], ROW_FREE)
    return left


def _redeliver(w: World, a: int, row: int, slot: int) -> Steps[bool]:
    value = yield from read_word(w, slot)
    states = (RUNNING,) if w.is_mutant("leased_forgotten") else (LEASED, RUNNING)
    if state_of(value) not in states or owner_of(value) != row:
        return False
    crashes = crashes_of(value)
    if crashes >= w.shape.max_crashes:
        yield from write_word(w, slot, moved(value, FAILED))
        return False
    if w.is_mutant("crash_counted_at_death"):
        crashes += 1
    if w.is_mutant("push_before_requeued"):
        yield from _push(w, a, slot, group_of(value))
    yield from write_word(w, slot, moved(value, REQUEUED, crashes=crashes))
    return not w.is_mutant("push_before_requeued")


def _ring_all(w: World) -> Steps[None]:
    row = 0
    while row < len(w.sleeping):
        asleep = yield find(1, *w.sleeping[row:])
        if not asleep:
            break
        row += asleep
        yield from _ring(w, row - 1)
    asleep = row = 0
    if not w.shape.waits:
        return
    for waiting in w.waiting:
        waits = yield load(waiting)
        if waits:
            yield post(w.bell[waiter(waits)])
        waits = 0


def _ring(w: World, row: int) -> Steps[None]:
    bell = w.sleeper(row)
    if w.shape.fresh_bells:
        bell = yield load(w.bell_of[row])
    yield post(w.bell[bell])


def _due(w: World, known: Slots, scans: bool) -> Steps[tuple[Slots, Slots]]:
    """Counters before words: a word that comes after the scan brings its count after it, too."""
    counts = yield from _counts(w)
    if counts == known and not scans:
        return known, ()
    if not w.is_mutant("no_sync_due"):
        yield sync()  # SYNC POINT: scheduled
    due = yield from _take_scheduled(w)
    if w.is_mutant("scan_before_count"):
        counts = yield from _counts(w)
    return counts, due


def _counts(w: World) -> Steps[Slots]:
    counts: Slots = ()
    for cell in w.scheduled:
        count = yield load(cell)
        counts = (*counts, count)
        count = 0
    return counts


def _take_scheduled(w: World) -> Steps[Slots]:
    due: Slots = ()
    for slot in range(len(w.word)):
        value = yield from read_word(w, slot)
        if state_of(value) == SCHEDULED:
            yield from write_word(w, slot, moved(value, REQUEUED))
            due = (*due, slot)
        value = 0
    return due


def _push_all(w: World, a: int, slots: Slots) -> Steps[Slots]:
    """Push each; returns those that found their lane full."""
    left: Slots = ()
    for slot in slots:
        value = yield from read_word(w, slot)
        pushed = True
        if state_of(value) == REQUEUED:
            pushed = yield from _push(w, a, slot, group_of(value))
        if not pushed:
            left = (*left, slot)
        value = 0
    return left


def _push(w: World, a: int, slot: int, group: int) -> Steps[bool]:
    lane = w.recovery_lane
    tail = yield load(w.tail[group, lane])
    head = yield load(w.head[group, lane])
    if tail - head >= w.room(lane) and not w.is_mutant("no_full_check_push"):
        return False
    yield store(w.ring[group, lane][tail % w.room(lane)], slot + 1)
    yield sync()
    yield store(w.tail[group, lane], tail + 1)
    if not w.is_mutant("no_fence_push"):
        yield fence()  # SYNC POINT: doorbell
    yield from wake_one(w, a, group)
    return True
