"""Submit what the hot path leaves: keywords, blocks, delays, chunks, or waiting for room."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.client.handle import ForgottenJob, Job, Origin
from shmq.client.submitting.room import has_room, make_room, queue_full, wait_for_blocks
from shmq.clock import now_ns, to_ns
from shmq.memory.doorbell import deadline as deadline_after
from shmq.tasks.task import Task
from shmq.transport.table import GENERATION_SHIFT
from shmq.wire.codec import ENCODING_ERRORS, PoolFull, explain
from shmq.wire.header import CALL, FORGET, MANY, VARIADIC

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.submitting.kinds import Named
    from shmq.client.submitting.targets import Target

DEFAULT_BLOCK_S = 30.0


def submit_around(
    client: Client, target: Target, task: Task[..., Any]
) -> Callable[[tuple[Any, ...], dict[str, Any]], Job[Any]]:
    """What a task's hot path does with calls that are not plain. It may be older than the client's row."""
    free = client._free

    def submit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        if free is client._free:
            return submit_any(client, target, task, args, kwargs)
        if client.is_default:  # forked since, or closed: the default client is another one
            return Task.submit(task, *args, **kwargs)
        return client.submit_task(task, args, kwargs)

    return submit


def submit_any(
    client: Client, target: Target, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
    block: float | None = None,
) -> Job[Any]:  # fmt: skip
    """Queue what the hot path leaves: keywords, blocks, delays, or waiting for room."""
    client._refuse_reentry()
    message: Any = args
    nargs = len(args)
    if kwargs or not target.least <= nargs <= target.most:
        args, kwargs = target.bind(args, kwargs)
        message, nargs = ((args, kwargs), VARIADIC) if kwargs else (args, len(args))
    if target.router is not None:
        target = target.router.pick(message)
    return submit_message(client, target, task, message, nargs, CALL, block)


def target_of(client: Client, task: Task[..., Any]) -> Target:
    """Where jobs of the task go; that of a routed one asks its router for each."""
    target: Target | None = task._target
    return client._target_of(task) if target is None or target.client is not client else target


def most_calls(client: Client, task: Task[..., Any], size: int) -> int:
    """Of a chunk of that size: a rate limit counts jobs, so with one each call is to be one."""
    return 1 if size == 1 or client._registry.is_rate_limited(target_of(client, task), task) else size


def bind_calls(
    client: Client, task: Task[..., Any], calls: list[tuple[Any, ...]]
) -> tuple[Target, list[tuple[Any, ...]], int]:
    """Of calls that go as one job: where they go, the calls as the task takes them, how many arguments each has."""
    target = target_of(client, task)
    lengths = set(map(len, calls))
    if min(lengths) < target.least or max(lengths) > target.most:
        calls = [target.bind(call, {})[0] for call in calls]
        lengths = set(map(len, calls))
    if target.router is not None:
        target = target.router.pick(*calls)
    return target, calls, lengths.pop() if len(lengths) == 1 else VARIADIC


def submit_message(
    client: Client, target: Target, task: Named, message: Any, nargs: int, kind: int, block: float | None
) -> Job[Any]:
    """Submit what needs a block, a delay, or room that is not there yet."""
    if block is None:
        block = DEFAULT_BLOCK_S if target.block is None else target.block
    give_up = deadline_after(block)
    while True:
        try:
            with client._lock:
                job = _try(client, target, task, message, nargs, kind)
            if job is not None:
                return job
            client._callbacks.run()
            if not client._waiter.wait(lambda: has_room(client, target), give_up):
                raise queue_full(client, task, target)
        except PoolFull:
            if kind == MANY and len(message) > 1:  # `map` has a better answer than waiting
                raise
            wait_for_blocks(client, task, give_up)


def _try(client: Client, target: Target, task: Named, message: Any, nargs: int, kind: int) -> Job[Any] | None:
    """One try under the lock; None when there is no slot or lane entry. Raises PoolFull."""
    client._check_usable()
    if not client._free and not make_room(client):
        return None
    slot = client._free.pop()
    publisher, encoder = client._publisher, client._encoder
    publisher.reserved.add(slot)
    word = 0
    try:
        encoder.begin(slot, client._words[slot] >> GENERATION_SHIFT or 1)
        data = encoder.encode(message)
        if encoder.has_odd_text and nargs != VARIADIC:
            data, nargs = data if kind == MANY else encoder.encode((message, {})), VARIADIC
        unit = encoder.place_message(data) + 1 if len(data) > client._inline_bytes else 0
        expires_ns = now_ns() + to_ns(target.expires_s) if target.expires_s is not None else 0
        if target.delay_s or target.eta is not None:
            due = now_ns() + to_ns(max(target.delay_s or (target.eta or 0) - time.time(), 0.0))
            word = publisher.schedule(slot, target.route, len(data), unit, nargs, kind, expires_ns, data, due)
        else:
            word = publisher.publish(slot, target.route, len(data), unit, nargs, kind, expires_ns, data)
    except ENCODING_ERRORS as error:
        raise explain(error, task.name) from error
    finally:
        publisher.reserved.discard(slot)
        if not word:
            publisher.finish_half_done_publishes()
            publisher.release(slot)
    if not word:
        return None
    origin = target.origin
    if origin.task is not task:  # its calls go as a chunk or a stream
        origin = Origin(client, task, client._registry.decoder(client._decoder, task))
    if target.route.flags & FORGET:
        return ForgottenJob().of_slot(origin, slot, word >> GENERATION_SHIFT)
    job: Job[Any] = Job().of_slot(origin, slot, word >> GENERATION_SHIFT)
    client._jobs[slot - client._first] = job
    return job
