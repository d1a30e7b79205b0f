"""The hot paths of a producer, each as one closure: submit a plain call, take its result, wait for it.

Everything is a cell or a constant; nothing is looked up on an object per job. The steps and their
order are those of `transport.publish` (SYNC POINTs have the same names); whatever is not plain -
keywords, blocks, delays, no room, another thread inside - goes the slow way through the client.

The lock is taken and released by its methods, not by `with`: a tenth of a microsecond per job. An exception
between the two can only come from a signal handler; then the client sets lock and row right (`repair`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from shmq.client.handle import PENDING, RAW, RAW_ERROR, ForgottenJob, Job
from shmq.clock import now_ns
from shmq.memory.fence import new_order_fence
from shmq.transport.table import DONE, FAILED, GENERATION_SHIFT, GROUP_SHIFT, LAST_GENERATION, QUEUED, STATE
from shmq.wire.codec import ENCODING_ERRORS, NeedsBlocks
from shmq.wire.header import (
    BLOCK_WORD,
    CALL,
    CALL_WORD,
    EXPIRES_WORD,
    FORGET,
    HEADER_BYTES,
    KEY_WORD,
    LIMIT_WORD,
    PARENT_WORD,
    PLAIN,
    SUBMITTED_WORD,
    VARIADIC,
    call_word,
)

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.submitting.targets import Target

AT_ONCE = 16
"""Most results that are taken under one lock: whoever reads in the order of submits will want those next."""


def make_submit(client: Client, target: Target, task: Any) -> Callable[..., Job[Any]]:
    """Submit one call of `task`: what `task.submit` is once the task's target is known."""
    segment, publisher = client.segment, client._publisher
    route, first = target.route, publisher.first
    lane, ring, key, timeout_ns, parent = route.lane, route.ring, route.key, route.timeout_ns, route.parent
    queued, flags = route.group << GROUP_SHIFT | QUEUED, route.flags | (0 if timeout_ns else PLAIN)
    takes = range(target.least, min(target.most, VARIADIC - 1) + 1)
    calls = tuple(call_word(n, CALL, flags, route.retries) if n in takes else 0 for n in range(VARIADIC))
    stride, capacity = segment.shape.slot_bytes, segment.shape.slots_per_producer
    heads, tails, entries = segment.view("heads"), segment.view("tails"), segment.view("rings")[ring : ring + capacity]
    whole, message_at = segment.map, segment.layout.offsets["payload"] + HEADER_BYTES
    (states, generations), (lengths, _) = segment.halves("words"), segment.slot_halves(CALL_WORD)
    keys, call_words, submitted, blocks, limits, expiries, parents = (
        segment.slot_words(word)
        for word in (KEY_WORD, CALL_WORD, SUBMITTED_WORD, BLOCK_WORD, LIMIT_WORD, EXPIRES_WORD, PARENT_WORD)
    )
    mask, inline = capacity - 1, client._inline_bytes
    encode, find, written = client._encode, segment.map.find, publisher.written
    from_sleeper, to_sleeper = publisher.bells.sleepers(route.group)
    ring_at, from_worker, fence = publisher.bells.ring, from_sleeper + 1, new_order_fence()
    rung, naps = publisher.bells.rung, publisher.bells.naps
    group, attended, believe = route.group, publisher.promises.attended, publisher.promises.believe
    is_busy, acquire, release = client._is_busy, client._lock.acquire, client._lock.release
    jobs, free, take, is_kept = client._jobs, client._free, client._free.pop, not flags & FORGET
    successors, former = client._successors, 0
    origin, make = target.origin, cast("type[Job[Any]]", Job if is_kept else ForgottenJob)
    slowly = client.submit_around(target, task)
    promised_ns = 0  # until when the group was attended when we looked; read again only when that is over
    full_at = 0  # the lane holds `capacity` entries when its tail gets here; read again only then

    def submit(*args: Any, **kwargs: Any) -> Job[Any]:
        nonlocal former, full_at, promised_ns
        try:
            call = calls[len(args)]
            data = encode(args)
        except (IndexError, NeedsBlocks, *ENCODING_ERRORS):  # blocks, or an explanation: both elsewhere
            return slowly(args, kwargs)
        length = len(data)
        if not call or kwargs or length > inline or not free or is_busy():  # not free: also after a fork or a close
            return slowly(args, kwargs)
        job = None
        try:
            acquire()
            tail = tails[lane]
            if (tail < full_at or tail < (full_at := heads[lane] + capacity)) and free:
                slot = take()
                i = slot - first
                submitted[slot] = now_ns()
                if written[i] is call:  # what the slot held last was such a call as well
                    lengths[slot] = length
                else:
                    written[i] = None
                    keys[slot], call_words[slot], blocks[slot] = key, call | length, 0
                    limits[slot], expiries[slot], parents[slot] = timeout_ns, 0, parent
                    written[i] = call
                at = slot * stride + message_at
                whole[at : at + length] = data
                job = make()
                job._origin = origin
                job._slot = slot
                job._generation = generations[slot]
                job._state = PENDING
                if is_kept:
                    jobs[i] = job
                    successors[former] = former = i
                entries[tail & mask] = slot
                if fence is not None:
                    fence()  # SYNC POINT: slot-visible
                states[slot] = queued  # the lower half: of a FREE word it is zero, the upper one the generation
                if fence is not None:
                    fence()  # SYNC POINT: lane-visible
                tails[lane] = tail + 1
            release()
        except BaseException:  # a signal handler raised, perhaps between word and tail
            client.repair()
            raise
        # SYNC POINT: doorbell — releasing the lock is an atomic read-modify-write: on x86-64 a full fence
        if fence is not None:
            fence()
        if job is None:
            return slowly(args, kwargs)
        now = now_ns()
        if promised_ns > now:  # SYNC POINT: attended
            return job
        if attended[group] > now and (promised_ns := believe(group)):
            return job
        sleeper = find(b"\1", from_sleeper, to_sleeper)
        if sleeper >= 0:
            sleeper -= from_worker
            if rung.get(sleeper) != naps[sleeper]:  # not rung yet in this nap; the supervisor's entry never is
                ring_at(sleeper)
        return job

    return submit


def make_collect(client: Client) -> Callable[[Job[Any]], bool]:
    """Has the job ended? If so its raw result is in the handle and its slot is free again."""
    segment, publisher = client.segment, client._publisher
    (states, generations), (places, lengths) = segment.halves("words"), segment.halves("results")
    words, whole, payload_at = segment.view("words"), segment.map, segment.layout.offsets["payload"]
    stride, first, jobs, successors = segment.shape.slot_bytes, publisher.first, client._jobs, client._successors
    acquire, release, is_busy = client._lock.acquire, client._lock.release, client._is_busy
    give_back, collect_slowly, fence = client._free.append, client._collect_slowly, new_order_fence()

    def collect(job: Job[Any]) -> bool:
        if is_busy():  # under the lock already, or a signal handler that interrupted whoever is
            return collect_slowly(job)
        try:
            acquire()
            i = job._slot - first
            state = DONE  # what is PENDING and DONE after the loop is for the slow way
            following = job if jobs[i] is job else None
            for _ in range(AT_ONCE):
                if following is None:
                    break
                generation, slot = following._generation, i + first
                state = states[slot] & STATE
                if fence is not None:
                    fence()  # SYNC POINT: result-visible — the word before the result
                if generations[slot] != generation or generation == LAST_GENERATION:
                    state = DONE  # the slot is not this job's any more, after a close or in a signal handler
                    break
                if not DONE <= state <= FAILED:
                    break
                place = places[slot]
                if place & 0xFF:  # in a block, or with a reference to one in it
                    break
                at = payload_at + slot * stride + (place >> 8)
                following._raw = whole[at : at + lengths[slot]]
                following._state = RAW if state == DONE else RAW_ERROR
                jobs[i] = None
                words[slot] = generation + 1 << GENERATION_SHIFT
                give_back(slot)
                i = successors[i]
                following = jobs[i]
            has_ended = job._state != PENDING or (state >= DONE and collect_slowly(job))
            release()
        except BaseException:
            client.repair()
            raise
        return has_ended

    return collect


def make_peek(client: Client) -> Callable[[Job[Any]], bool]:
    """Is there anything to collect? A look at the word without the lock, for whoever is about to sleep."""
    states, generations = client.segment.halves("words")

    def peek(job: Job[Any]) -> bool:
        slot = job._slot
        return states[slot] & STATE >= DONE or generations[slot] != job._generation or job._state != PENDING

    return peek
