"""A worker: claim under the group's byte, run, acknowledge; else say "I sleep", look, sleep.

group byte → entries: word LEASED → head → unlock → fence → read `cancel` → ring on
→ each: word RUNNING, crashes + 1 → result → word → fence → notify who waits
"""

from __future__ import annotations

from tests.crash.model.actors.shared import (
    in_order,
    lanes_of,
    look,
    notify_producer,
    read_word,
    wake_one,
    write_word,
)
from tests.crash.model.automaton import Op, Steps
from tests.crash.model.monitor import AT_HOME, RESULT_OF, START
from tests.crash.model.ops import clear, fence, leave, load, lock, note, post, store, sync, unlock, until, wait
from tests.crash.model.world import (
    CANCELLED,
    DONE,
    ENDED,
    FREE,
    LAST_MOMENT,
    LEASED,
    QUEUED,
    REQUEUED,
    ROW_LIVE,
    RUNNING,
    SCHEDULED,
    World,
    crashes_of,
    failures_of,
    freed,
    generation_of,
    group_of,
    moved,
    owner_of,
    state_of,
    word,
)

Lease = tuple[tuple[int, int], ...]  # slot, the word written


def worker(w: World, a: int, row: int, *, is_replacement: bool = False) -> Steps[None]:
    group = w.shape.workers[row]
    if w.shape.epochs and not is_replacement:
        is_old = yield from _epoch_moved(w, row)
        if is_old:
            yield leave()
    yield note(AT_HOME, row)
    if is_replacement:
        yield from _move_in(w, a, row)
    promised = 0
    while True:
        if not w.shape.promises:
            yield from doze(w, a, row, group)
        leaves = 0
        if w.shape.leaves and not is_replacement:
            leaves = yield load(w.leave[row])
        if leaves:
            yield from _leave(w, a, group, promised)
            yield leave()
        if w.shape.promises:
            found = yield from look(w, group)
            if not found:
                yield from _rest(w, a, row, group, promised)
                promised = 0
                continue
            found = False
        seen = 0
        if w.shape.first_look:
            seen = yield from _count(w, group)
        if w.shape.early:  # the producer of the lane that has work, as far as the look told
            yield from notify_producer(w, a, 0)
        lease, passed, promised = yield from claim(w, row, group, promised)
        if passed and w.shape.waits and not w.is_mutant("no_notify_of_room"):
            yield from _notify_of_room(w, a, passed)
        if lease:
            yield from serve(w, a, row, group, lease, seen)
        lease, passed = (), 0


def _move_in(w: World, a: int, row: int) -> Steps[None]:
    if w.shape.fresh_bells:
        yield store(w.bell_of[row], a)
    if w.is_mutant("naps_start_anew"):
        yield store(w.nap[row], 0)
    yield store(w.row[row], ROW_LIVE)


def _epoch_moved(w: World, row: int) -> Steps[bool]:
    """The byte first: a new supervisor raises the epoch, then takes the bytes of all rows as proof."""
    if w.is_mutant("epoch_before_byte"):
        epoch = yield load(w.epoch)
        yield lock(w.worker_lock[row])
    else:
        yield lock(w.worker_lock[row])
        epoch = yield load(w.epoch)
    return epoch > 0


def _rest(w: World, a: int, row: int, group: int, promised: int) -> Steps[None]:
    """Nothing to do: keep the promise, then sleep. Tokens that come before the promised look are for what it sees."""
    if promised and not w.is_mutant("promise_not_kept"):
        yield until(w.clock, promised)
        yield clear(w.bell[a])
        found = yield from look(w, group)  # SYNC POINT: attended
        if found:
            return
        found = False
    yield from doze(w, a, row, group)


def _leave(w: World, a: int, group: int, promised: int) -> Steps[None]:
    """A token taken along would be lost to the group: look once more, after what was promised, and wake another."""
    is_early = w.is_mutant("leave_looks_before_promised")
    if promised and not (is_early or w.is_mutant("leave_despite_promise")):
        yield until(w.clock, promised)
    if not w.is_mutant("leave_without_look"):
        yield fence()
        left = yield from look(w, group)
        if left:
            yield from wake_one(w, a, group)
        left = False
    if promised and is_early:
        yield until(w.clock, promised)


def claim(w: World, row: int, group: int, promised: int) -> Steps[tuple[Lease, int, int]]:
    """What was leased; in which lanes stale entries were passed (bits): room somebody waits for; what is promised."""
    if not w.is_mutant("no_lock"):
        yield lock(w.group_lock[group])
    lease: Lease = ()
    passed = 0
    for lane in lanes_of(w):
        if len(lease) < w.shape.batch:
            lease, stale = yield from _claim_lane(w, row, group, lane, lease)
            passed |= stale << lane
            stale = False
    if w.shape.promises and lease:
        promised = yield from _promise(w, group, lease[0][0], promised)
    if w.is_mutant("head_after_unlock"):
        yield unlock(w.group_lock[group])
        yield from _move_head_late(w, group, lease)
    elif not w.is_mutant("no_lock"):
        yield unlock(w.group_lock[group])
    return lease, passed, promised


def _promise(w: World, group: int, slot: int, promised: int) -> Steps[int]:
    """Under the byte: look again after a moment. Another one's promise is overwritten; it is kept all the same."""
    job = yield load(w.payload[slot])
    now = yield load(w.clock)
    moment = min(now + w.shape.promises[job - 1], LAST_MOMENT)
    if moment <= now:
        return 0 if w.is_mutant("claim_forgets_promise") else promised
    if not w.is_mutant("promises_sooner"):
        moment = max(moment, promised)
    yield store(w.attended[group], moment)
    return moment


def _notify_of_room(w: World, a: int, passed: int) -> Steps[None]:
    yield fence()
    for lane in range(w.recovery_lane):
        if passed >> lane & 1:
            yield from notify_producer(w, a, lane)


def _move_head_late(w: World, group: int, lease: Lease) -> Steps[None]:
    if lease:
        head = yield load(w.head[group, 0])
        tail = yield load(w.tail[group, 0])
        if tail > head:
            yield store(w.head[group, 0], head + 1)


def _claim_lane(w: World, row: int, group: int, lane: int, lease: Lease) -> Steps[tuple[Lease, bool]]:
    head, tail = yield from _ends(w, group, lane)
    first, stale = head, False
    if not w.is_mutant("no_sync_claim"):
        yield sync()  # SYNC POINT: lane-visible
    if w.is_mutant("head_before_leased") and head < tail:
        yield store(w.head[group, lane], tail)
    while head < tail and len(lease) < w.shape.batch:
        taken = yield from _claim_entry(w, row, group, w.ring[group, lane][head % w.room(lane)])
        lease += taken
        stale = stale or not taken
        head += 1
        taken = ()
    if head > first and not (w.is_mutant("head_before_leased") or w.is_mutant("head_after_unlock")):
        yield store(w.head[group, lane], head)
    return lease, stale


def _ends(w: World, group: int, lane: int) -> Steps[tuple[int, int]]:
    head = yield load(w.head[group, lane])
    tail = yield load(w.tail[group, lane])
    return head, tail


def _claim_entry(w: World, row: int, group: int, cell: int) -> Steps[Lease]:
    entry = yield load(cell)
    if not entry:
        return ()
    value = yield from read_word(w, entry - 1)
    states = (QUEUED, REQUEUED, RUNNING) if w.is_mutant("claims_running") else (QUEUED, REQUEUED)
    if w.is_mutant("claims_leased"):
        states = (QUEUED, REQUEUED, LEASED)
    if state_of(value) not in states or (group_of(value) != group and not w.is_mutant("any_group")):
        return ()
    leased = moved(value, LEASED, owner=row)
    yield from write_word(w, entry - 1, leased)
    return ((entry - 1, leased),)


def _count(w: World, group: int) -> Steps[int]:
    """Entries in the group's lanes. What comes after this look finds the sleeping byte cleared: it rings another."""
    if not w.is_mutant("no_fence_after_nap"):
        yield fence()  # SYNC POINT: doorbell
    count = 0
    for lane in lanes_of(w):
        head, tail = yield from _ends(w, group, lane)
        count += tail - head
        head = tail = 0
    return count


def serve(w: World, a: int, row: int, group: int, lease: Lease, seen: int) -> Steps[None]:
    if w.shape.cancels and w.is_mutant("cancel_read_before_fence"):
        lease = yield from _drop_cancelled(w, a, lease)
    if not w.is_mutant("no_fence_claim"):
        yield fence()  # SYNC POINT: cancel, doorbell
    if w.shape.cancels and not (w.is_mutant("no_cancel_check") or w.is_mutant("cancel_read_before_fence")):
        lease = yield from _drop_cancelled(w, a, lease)
    if not (w.is_mutant("no_ring_on") or w.shape.promises):  # tiny jobs are not worth another one's waking up
        left = seen > len(lease)
        if not w.shape.first_look:
            left = yield from look(w, group)
        if left:
            yield from wake_one(w, a, group)
        left, seen = False, 0
    if w.shape.slow and len(lease) > 1 and not w.is_mutant("keeps_its_lease"):
        yield from _run_slowly(w, a, row, lease)
        return
    for slot, leased in lease:
        yield from _run(w, a, row, slot, leased)


def _drop_cancelled(w: World, a: int, lease: Lease) -> Steps[Lease]:
    kept: Lease = ()
    for slot, leased in lease:
        asked = yield load(w.cancel[slot])
        if asked == generation_of(leased):
            yield from write_word(w, slot, moved(leased, CANCELLED))
            if not w.is_mutant("cancelled_in_silence"):
                yield fence()
                yield from notify_producer(w, a, slot // w.shape.slots)
        else:
            kept = (*kept, (slot, leased))
    return kept


def _run_slowly(w: World, a: int, row: int, lease: Lease) -> Steps[None]:
    """The timer fires inside a long job: the rest of the lease goes back."""
    running = yield from _start(w, lease[0][0], lease[0][1])
    for slot, leased in lease[1:]:
        yield from give_back(w, row, slot, moved(leased, SCHEDULED))
    yield from _finish(w, a, row, lease[0][0], running)


def give_back(w: World, row: int, slot: int, scheduled: int) -> Steps[None]:
    """Word SCHEDULED (due now), count, ring recovery."""
    count = yield load(w.scheduled[row])
    steps: dict[str, Op] = {
        "scheduled": store(w.word[slot], scheduled), "count": store(w.scheduled[row], count + 1)
    }  # fmt: skip
    ordered = in_order(w, **steps)
    yield ordered[0]
    yield sync()
    if w.is_mutant("ring_before_scheduled"):
        yield post(w.bell[w.actor("recovery")])
    yield ordered[1]
    if not w.is_mutant("ring_before_scheduled"):
        yield post(w.bell[w.actor("recovery")])


def _run(w: World, a: int, row: int, slot: int, leased: int) -> Steps[None]:
    running = yield from _start(w, slot, leased)
    if running:
        yield from _finish(w, a, row, slot, running)


def _start(w: World, slot: int, leased: int) -> Steps[int]:
    if w.shape.checked:
        value = yield from read_word(w, slot)
        if value != leased:
            return 0
    running = moved(leased, RUNNING, owner=owner_of(leased), crashes=crashes_of(leased) + 1)
    yield from write_word(w, slot, running)
    job = yield load(w.payload[slot])
    yield note(START, slot, job)
    return running


def _finish(w: World, a: int, row: int, slot: int, running: int) -> Steps[None]:
    job = yield load(w.payload[slot])
    if w.shape.slow and job == 1:
        if w.shape.promises:
            yield from _timer(w, a, row)
        yield until(w.fate[2], ENDED)
    if w.shape.retries and job == 1 and not failures_of(running):
        yield from give_back(w, row, slot, _failed(w, running))
        return
    if w.shape.checked:
        value = yield from read_word(w, slot)
        if value != running:
            return
        value = 0
    if w.is_mutant("notify_before_done"):
        yield from _notify(w, a, slot // w.shape.slots)
        yield from _acknowledge(w, slot, running, job)
    else:
        yield from _acknowledge(w, slot, running, job)
        if not w.is_mutant("rings_early_only"):
            yield from _notify(w, a, slot // w.shape.slots)


def _timer(w: World, a: int, row: int) -> Steps[None]:
    """It fires in a long job, when every promise made before it is over: another one must look instead."""
    if not w.is_mutant("timer_before_promised"):
        yield until(w.clock, LAST_MOMENT)
    if not w.is_mutant("timer_does_not_ring"):
        yield fence()
        yield from wake_one(w, a, w.shape.workers[row])


def _failed(w: World, running: int) -> int:
    """SCHEDULED after an exception: a failure more, and the crash paid in advance comes back."""
    paid = 0 if w.is_mutant("failure_costs_a_crash") else 1
    return moved(running, SCHEDULED, crashes=crashes_of(running) - paid, failures=failures_of(running) + 1)


def _acknowledge(w: World, slot: int, running: int, job: int) -> Steps[None]:
    if w.shape.collect:
        ended = moved(running, DONE)
    else:
        ended = freed(running)
        if w.is_mutant("same_generation"):
            ended = word(FREE, generation=generation_of(running))
    steps: dict[str, Op] = {"result": store(w.result[slot], job + RESULT_OF), "done": store(w.word[slot], ended)}
    for step in in_order(w, **steps):
        if step == steps["done"]:
            if not w.is_mutant("no_sync_result"):
                yield sync()  # SYNC POINT: result-visible
            yield from write_word(w, slot, ended)
        else:
            yield step


def _notify(w: World, a: int, producer: int) -> Steps[None]:
    if not w.is_mutant("no_fence_notify"):
        yield fence()  # SYNC POINT: doorbell
    yield from notify_producer(w, a, producer)


def doze(w: World, a: int, row: int, group: int) -> Steps[None]:
    """Say so, look, sleep. What is published before the byte is cleared is seen by the next look."""
    if w.shape.naps:
        nap = yield load(w.nap[row])
        if not (nap and w.is_mutant("nap_not_renewed")):
            yield store(w.nap[row], nap + 1)
        nap = 0
    if w.is_mutant("clear_inside_nap"):
        yield clear(w.bell[a])
    if w.is_mutant("look_before_sleeping"):
        found = yield from look(w, group)
        yield store(w.sleeping[row], 1)
        yield fence()
    else:
        yield store(w.sleeping[row], 1)
        if not w.is_mutant("no_fence_sleep"):
            yield fence()  # SYNC POINT: doorbell
        found = False
        if not w.is_mutant("no_look_after_sleeping"):
            found = yield from look(w, group)
    if w.is_mutant("clear_after_look"):
        yield clear(w.bell[a])
    if not found:
        yield from _sleep(w, a)
    yield store(w.sleeping[row], 0)
    if w.shape.clears and not w.is_mutant("clear_inside_nap"):
        yield clear(w.bell[a])


def _sleep(w: World, a: int) -> Steps[None]:
    while True:
        rung = yield wait(w.bell[a])
        if rung or not w.is_mutant("no_rescan"):
            return
