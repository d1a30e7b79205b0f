"""A producer: reserve a slot, publish, cancel, wait, read the result; and who takes over its row.

payload → ring cell → word QUEUED → tail → fence → wake one sleeper
"""

from __future__ import annotations

from tests.crash.model.actors.shared import in_order, read_word, wake_one, write_word
from tests.crash.model.automaton import Op, Steps
from tests.crash.model.monitor import ACCEPT, ASK, CERTAIN, GOT, ISSUE, RELIES, SETTLED, TENANT
from tests.crash.model.ops import clear, fence, load, lock, note, post, proof, store, sync, unlock, wait
from tests.crash.model.world import (
    CANCELLED,
    DONE,
    FAILED,
    FREE,
    QUEUED,
    REQUEUED,
    SCHEDULED,
    WAIT,
    World,
    freed,
    generation_of,
    group_of,
    state_of,
    word,
)

SUBMIT, COLLECT, CANCEL, DELAY, BREAK_OFF = range(5)
Plan = tuple[tuple[int, int, int], ...]  # verb, job, group
Handles = tuple[tuple[int, int, int], ...]  # job, slot, generation
ENDS = (DONE, FAILED, CANCELLED)


def producer(w: World, a: int, row: int, plan: Plan) -> Steps[None]:
    """Carry out the plan and stay. It holds its row from the start."""
    yield from carry_out(w, a, row, plan)


def carry_out(w: World, a: int, row: int, plan: Plan) -> Steps[None]:
    handles: Handles = ()
    known: tuple[int, ...] = (0,) * w.shape.groups  # until when each group was attended when it was looked at
    for verb, job, group in plan:
        if verb == BREAK_OFF:
            yield from break_off(w, a, row, job, group)
            continue
        if verb == SUBMIT:
            slot, generation, until = yield from submit(w, a, row, job, group, handles, known[group])
            handles = (*handles, (job, slot, generation))
            known = (*known[:group], until, *known[group + 1 :])
            until = 0
        elif verb == DELAY:
            slot, generation = yield from delay(w, a, row, job, group, handles)
            handles = (*handles, (job, slot, generation))
        else:
            slot, generation = next((s, g) for j, s, g in handles if j == job)
            yield from (collect if verb == COLLECT else cancel)(w, a, row, job, slot, generation)
        slot = generation = 0


def submit(
    w: World, a: int, row: int, job: int, group: int, handles: Handles, known: int
) -> Steps[tuple[int, int, int]]:
    """Slot and generation; and until when the group is attended, as far as is known."""
    slot, free, tail = yield from reserve(w, a, row, group, handles)
    yield note(ISSUE, slot, job)
    early = 0
    if w.is_mutant("clock_read_before_tail"):
        early = yield load(w.clock)
    yield from publish(w, row, slot, free, tail, job, group)
    if not w.is_mutant("no_fence_publish"):
        yield fence()
    relies = False
    if w.shape.promises:
        relies, known = yield from _is_attended(w, group, known, early)
    if not (relies or w.is_mutant("no_wake")):
        yield from wake_one(w, a, group)
    yield note(ACCEPT, job)
    return slot, generation_of(free), known


def _is_attended(w: World, group: int, known: int, early: int) -> Steps[tuple[bool, int]]:
    """Will a worker that is awake look again after a moment that is still to come? Then it need not be rung.

    A promise once seen is believed until it is over: who gave it never promises anything sooner meanwhile.
    """
    now = early
    if not w.is_mutant("clock_read_before_tail"):
        now = yield load(w.clock)  # SYNC POINT: attended
    if w.is_mutant("promise_without_clock"):
        now = 0
    if known <= now:
        known = yield load(w.attended[group])
    if known <= now:
        return False, 0
    yield note(RELIES, known)
    return True, known


def break_off(w: World, a: int, row: int, job: int, group: int) -> Steps[None]:
    """A submit that an exception leaves between word and tail; then what the producer does about it."""
    slot, free, tail = yield from reserve(w, a, row, group, ())
    yield note(ISSUE, slot, job)
    yield store(w.payload[slot], job)
    yield store(w.ring[group, row][tail % w.capacity], slot + 1)
    yield from write_word(w, slot, word(QUEUED, group=group, generation=generation_of(free)))
    if not w.is_mutant("half_done_forgotten"):
        yield from _finish_half_done(w, a, row, group)


def delay(w: World, a: int, row: int, job: int, group: int, handles: Handles) -> Steps[tuple[int, int]]:
    """A job for later: no lane; word SCHEDULED, count, ring recovery."""
    slot, free, _ = yield from reserve(w, a, row, group, handles)
    yield note(ISSUE, slot, job)
    yield store(w.payload[slot], job)
    yield sync()
    yield from write_word(w, slot, word(SCHEDULED, group=group, generation=generation_of(free)))
    yield sync()
    yield from count_scheduled(w, row)
    yield note(ACCEPT, job)
    return slot, generation_of(free)


def count_scheduled(w: World, row: int) -> Steps[None]:
    cell = w.scheduled[len(w.row) + row]
    count = yield load(cell)
    yield store(cell, count + 1)
    yield post(w.bell[w.actor("recovery")])


def publish(w: World, row: int, slot: int, free: int, tail: int, job: int, group: int) -> Steps[None]:
    queued = word(QUEUED, group=group, generation=generation_of(free))
    cell = w.ring[group, row][tail % w.capacity]
    steps: dict[str, Op] = {
        "payload": store(w.payload[slot], job), "cell": store(cell, slot + 1),
        "queued": store(w.word[slot], queued), "tail": store(w.tail[group, row], tail + 1),
    }  # fmt: skip
    for step in in_order(w, **steps):
        if step == steps["queued"]:
            if not w.is_mutant("no_sync_slot"):
                yield sync()  # SYNC POINT: slot-visible
            yield from write_word(w, slot, queued)
            if not w.is_mutant("no_sync_lane"):
                yield sync()  # SYNC POINT: lane-visible
        else:
            yield step


def reserve(w: World, a: int, row: int, group: int, handles: Handles) -> Steps[tuple[int, int, int]]:
    """A FREE slot, its word and the tail of the lane, once the lane has room: else wait for both."""
    says_so = False
    while True:
        found = yield from _room(w, row, group, handles)
        if found:
            if says_so:
                yield store(w.waiting[row], 0)
            return found
        if says_so:
            yield from _await_ring(w, a)
        else:
            yield from _say_waiting(w, a, row)
            says_so = True


def _room(w: World, row: int, group: int, handles: Handles) -> Steps[tuple[int, int, int] | None]:
    tail = yield load(w.tail[group, row])
    if w.shape.waits and not w.is_mutant("no_full_check"):
        head = yield load(w.head[group, row])
        if tail - head >= w.capacity:
            return None
    for slot in w.row_slots(row):
        free = yield from read_word(w, slot)
        if state_of(free) == FREE:
            return slot, free, tail
        if state_of(free) in ENDS and not (w.shape.collect and _is_asked_for(slot, free, handles)):
            free = yield from release(w, slot, free)
            return slot, free, tail
    return None


def _is_asked_for(slot: int, value: int, handles: Handles) -> bool:
    return any((slot, generation_of(value)) == (s, g) for _, s, g in handles)


def _say_waiting(w: World, a: int, row: int) -> Steps[None]:
    number = 0
    if w.shape.early:
        number = yield load(w.waits[row])
        number += 1
        yield store(w.waits[row], number)
    yield store(w.waiting[row], number * WAIT + a + 1)
    if not w.is_mutant("no_fence_wait"):
        yield fence()  # SYNC POINT: doorbell


def _await_ring(w: World, a: int) -> Steps[None]:
    yield wait(w.bell[a])
    if w.shape.clears:
        yield clear(w.bell[a])


def release(w: World, slot: int, ended: int) -> Steps[int]:
    free = freed(ended)
    if w.is_mutant("same_generation"):
        free = word(FREE, generation=generation_of(ended))
    yield from write_word(w, slot, free)
    return free


def collect(w: World, a: int, row: int, job: int, slot: int, generation: int) -> Steps[None]:
    """Wait for the end of a job, read its result, free the slot."""
    value = yield from _await_end(w, a, row, slot, generation)
    yield store(w.waiting[row], 0)
    if state_of(value) == DONE:
        yield from _read_result(w, job, slot)
    yield from release(w, slot, value)


def _await_end(w: World, a: int, row: int, slot: int, generation: int) -> Steps[int]:
    if w.is_mutant("look_before_waiting"):
        value = yield from _ended(w, slot, generation)
        yield from _say_waiting(w, a, row)
    else:
        yield from _say_waiting(w, a, row)
        value = yield from _ended(w, slot, generation)
    while not value:
        yield from _await_ring(w, a)
        if w.shape.early and not w.is_mutant("wait_not_renewed"):
            yield from _say_waiting(w, a, row)
        value = yield from _ended(w, slot, generation)
    if not w.is_mutant("no_sync_collect"):
        yield sync()  # SYNC POINT: result-visible
    return value


def _ended(w: World, slot: int, generation: int) -> Steps[int]:
    value = yield from read_word(w, slot)
    return value if state_of(value) in ENDS and generation_of(value) == generation else 0


def _read_result(w: World, job: int, slot: int) -> Steps[None]:
    got = yield load(w.result[slot])
    yield note(GOT, job, got)


def cancel(w: World, a: int, row: int, job: int, slot: int, generation: int) -> Steps[None]:
    """Ask; and say "certain" when the word shows that nobody has it."""
    value = yield from read_word(w, slot)
    if generation_of(value) != generation and not w.is_mutant("late_cancel"):
        return  # the slot has another job, whose own cancellation this must not erase
    value = 0
    yield note(ASK, job)
    yield store(w.cancel[slot], generation)
    if not w.is_mutant("no_fence_cancel"):
        yield fence()  # SYNC POINT: cancel
    value = yield from read_word(w, slot)
    if generation_of(value) == generation and state_of(value) in (QUEUED, REQUEUED, SCHEDULED):
        yield note(CERTAIN, job)


def successor(w: World, a: int, row: int, former: int, plan: Plan) -> Steps[None]:
    """Take the row once its byte is free and its former holder proven dead; then submit."""
    yield lock(w.row_lock[row])
    if not w.is_mutant("takeover_without_proof"):
        is_dead = yield proof(former)
        if not is_dead:
            yield unlock(w.row_lock[row])
            return
    yield note(TENANT, row)
    yield from take_over(w, a, row)
    yield note(SETTLED)
    yield from carry_out(w, a, row, plan)


def take_over(w: World, a: int, row: int) -> Steps[None]:
    if not w.is_mutant("no_half_done_push"):
        for group in range(w.shape.groups):
            yield from _finish_half_done(w, a, row, group)
    if not w.is_mutant("takeover_does_not_ring"):
        yield from _ring_for_entries(w, a, row)
    for slot in w.row_slots(row):
        yield from _end_unread(w, slot)
    if w.shape.delays and not w.is_mutant("takeover_forgets_scheduled"):
        yield from count_scheduled(w, row)  # the former holder may have died between word and count


def _finish_half_done(w: World, a: int, row: int, group: int) -> Steps[None]:
    tail = yield load(w.tail[group, row])
    head = yield load(w.head[group, row])
    slot = yield load(w.ring[group, row][tail % w.capacity])
    if not slot or tail - head >= w.capacity:
        return
    value = yield from read_word(w, slot - 1)
    if state_of(value) == QUEUED and group_of(value) == group:
        yield store(w.tail[group, row], tail + 1)
        yield fence()
        yield from wake_one(w, a, group)


def _ring_for_entries(w: World, a: int, row: int) -> Steps[None]:
    """The former holder may have died between tail and ring."""
    yield fence()
    for group in range(w.shape.groups):
        head = yield load(w.head[group, row])
        tail = yield load(w.tail[group, row])
        if head != tail:
            yield from wake_one(w, a, group)
        head = tail = 0


def _end_unread(w: World, slot: int) -> Steps[None]:
    value = yield from read_word(w, slot)
    if state_of(value) in ENDS:
        yield from release(w, slot, value)
