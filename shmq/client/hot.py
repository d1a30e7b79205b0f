"""The two hot paths of a producer, each as one closure: submit a plain call, take its result.

Everything is a cell or a constant; nothing is looked up on an object per job. The steps and their
order are those of `transport.publish` (SYNC POINTs have the same names); whatever is not plain -
keywords, blocks, delays, no room, another thread inside - goes the slow way through the client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.client.handle import PENDING, RAW, RAW_ERROR, ForgottenJob, Job
from shmq.clock import now_ns
from shmq.memory.fence import new_order_fence
from shmq.transport.table import DONE, FAILED, GENERATION_SHIFT, GROUP_SHIFT, QUEUED, STATE
from shmq.wire.codec import ENCODING_ERRORS, NeedsBlocks
from shmq.wire.header import CALL, FORGET, HEADER, HEADER_BYTES, INLINE

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.resolve import Target

_LAST_GENERATION = 0xFFFFFFFF << GENERATION_SHIFT
_NEXT = 1 << GENERATION_SHIFT
_LOW = _NEXT - 1


def make_submit(client: Client, target: Target, task: Any) -> Callable[[tuple[Any, ...]], Job[Any]]:
    """Submit one call of `task` with positional arguments."""
    segment, publisher = client.segment, client._publisher
    route, least, most = target.route, target.least, target.most
    lane, ring, key, flags = route.lane, route.ring, route.key, route.flags
    retries, timeout_ns, parent = route.retries, route.timeout_ns, route.parent
    queued = route.group << GROUP_SHIFT | QUEUED
    words, heads, tails, rings = (segment.view(n) for n in ("words", "heads", "tails", "rings"))
    payload, whole, payload_at = segment.view("payload"), segment.map, segment.layout.offsets["payload"]
    stride, capacity = segment.shape.slot_bytes, segment.shape.slots_per_producer
    mask, first, inline = capacity - 1, publisher.first, client._inline_bytes
    message_at = payload_at + HEADER_BYTES
    pack_into, encode, find = HEADER.pack_into, client._encode, segment.map.find
    from_sleeper, to_sleeper = publisher.bells.sleepers(route.group)
    wake_one, group, fence = publisher.bells.wake_one, route.group, new_order_fence()
    rung, naps, from_worker = publisher.bells.rung, publisher.bells.naps, from_sleeper + 1
    lock, is_busy, jobs, free = client._lock, client._is_busy, client._jobs, client._free
    take, decode, is_kept = free.pop, target.decode, not flags & FORGET
    kind: type[Job[Any]] = Job if is_kept else ForgottenJob
    new = kind.__new__

    def submit(args: tuple[Any, ...]) -> Job[Any]:
        nargs = len(args)
        if not least <= nargs <= most or is_busy():
            return client.submit_any(target, task, args, {})
        try:
            data = encode(args)
        except (NeedsBlocks, *ENCODING_ERRORS):  # blocks, or an explanation: both elsewhere
            return client.submit_any(target, task, args, {})
        length = len(data)
        if length > inline or not free:
            return client.submit_any(target, task, args, {})
        job = None
        try:
            with lock:
                tail = tails[lane]
                if tail - heads[lane] < capacity and free:
                    slot = take()
                    word = words[slot] | queued
                    at = slot * stride
                    pack_into(payload, at, key, length, 0, nargs, CALL, flags, retries, timeout_ns, 0, now_ns(), parent)
                    at += message_at
                    whole[at : at + length] = data
                    job = new(kind)
                    job._client, job._task, job._decode = client, task, decode
                    job._slot, job._word, job._state = slot, word, PENDING
                    if is_kept:
                        jobs[slot - first] = job
                    rings[ring + (tail & mask)] = slot
                    if fence is not None:
                        fence()  # SYNC POINT: slot-visible
                    words[slot] = word
                    if fence is not None:
                        fence()  # SYNC POINT: lane-visible
                    tails[lane] = tail + 1
        except BaseException:  # a signal handler raised between word and tail
            client.repair()
            raise
        # SYNC POINT: doorbell — releasing the lock is an atomic read-modify-write: on x86-64 a full fence
        if fence is not None:
            fence()
        if job is None:
            return client.submit_any(target, task, args, {})
        at = find(b"\1", from_sleeper, to_sleeper)
        if at >= 0:
            at -= from_worker
            if rung.get(at) != naps[at]:  # not rung yet in this nap; the supervisor's entry never is
                wake_one(group)
        return job

    return submit


def make_collect(client: Client) -> Callable[[Job[Any]], bool]:
    """Has the job ended? If so its raw result is in the handle and its slot is free again."""
    segment, publisher = client.segment, client._publisher
    words, results, whole = segment.view("words"), segment.view("results"), segment.map
    payload_at, stride, first = segment.layout.offsets["payload"], segment.shape.slot_bytes, publisher.first
    lock, jobs, give_back = client._lock, client._jobs, client._free.append
    collect_slowly, fence = client._collect_slowly, new_order_fence()

    def collect(job: Job[Any]) -> bool:
        with lock:
            slot = job._slot
            word = words[slot]
            state = word & STATE
            if state < DONE and (word ^ job._word) < _NEXT and job._state == PENDING:
                return False
            if state > FAILED or (word ^ job._word) >= _NEXT or word >= _LAST_GENERATION or job._state != PENDING:
                return collect_slowly(job)
            if fence is not None:
                fence()  # SYNC POINT: result-visible — the word before the result
            result = results[slot]
            if result & 0xFF != INLINE:
                return collect_slowly(job)
            at = payload_at + slot * stride + (result >> 8 & 0xFFFFFF)
            job._raw = whole[at : at + (result >> 32)]
            job._state = RAW if state == DONE else RAW_ERROR
            jobs[slot - first] = None
            words[slot] = (word | _LOW) + 1  # FREE, the next generation
            give_back(slot)
            return True

    return collect
