"""Room for one more job: a free slot, a lane entry, blocks for large arguments; and what to say when there is none."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shmq.client.results.collecting import sweep
from shmq.errors import BadArguments, QueueFull
from shmq.memory import late

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shmq.client.client import Client
    from shmq.client.submitting.kinds import Named
    from shmq.client.submitting.targets import Target

_BLOCK_PAUSE_S = 0.003


def make_room(client: Client) -> bool:
    """Free slots: found FREE again, or ended jobs whose results move into their handles."""
    if client._publisher.refill():
        return True
    sweep(client)
    return bool(client._free)


def has_room(client: Client, target: Target) -> bool:
    """Is there a slot, and a place in the lane?"""
    with client._lock:
        is_delayed = bool(target.delay_s) or target.eta is not None  # goes into no lane
        if not is_delayed and not client._publisher.has_room(target.route.lane):
            return False
        return bool(client._free) or make_room(client)


def wait_for_blocks(client: Client, task: Named, give_up: float) -> None:
    """Give back blocks of results that nobody waits for, then pause: blocks become free without a ring."""
    with client._lock:
        sweep(client)
    client._callbacks.run()
    client._publisher.promises.settle()
    if time.monotonic() >= give_up:
        raise QueueFull(
            f"no free block for the arguments of {task.name}: {client._blocks.usage()}.\n"
            "Read or drop results sooner, raise [memory] block_budget_bytes, or wait: options(block=60)."
        )
    time.sleep(_BLOCK_PAUSE_S)


def queue_full(client: Client, task: Named, target: Target) -> QueueFull:
    """What to raise when no room came in time."""
    total = len(client._jobs)
    group = client._segment.text("group_names", target.route.group)
    return QueueFull(
        f"group {group!r}: no room for {task.name}: {total - len(client._free)} of {total} slots of this producer "
        "are taken, or its lane is full of entries that no worker has passed yet; workers are slower than "
        "producers, paused, or not running.\n"
        "Look at `shmq status`; raise [memory] slots_per_producer, add workers, or wait: options(block=60)."
    )


def empty(client: Client, shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """See Client.empty."""
    late.load()
    import numpy as np

    try:
        kind = np.dtype(dtype)
        dims = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
        can_lie = not (kind.hasobject or kind.names) and min(dims, default=0) >= 0
    except (TypeError, ValueError):  # ValueError: a dtype of text that numpy cannot read
        can_lie = False
    if not can_lie:
        raise BadArguments(
            f"shmq.empty: no array of shape {shape!r} and dtype {dtype!r} can lie in shared memory.\n"
            "Lengths are 0 or more; objects and named fields cannot travel."
        )
    nbytes = math.prod(dims) * kind.itemsize
    with client._lock:
        client._check_usable()
        unit = client._blocks.allocate_pinned(nbytes)
        if unit is None:
            sweep(client)
            unit = client._blocks.allocate_pinned(nbytes)
    if unit is None:
        raise QueueFull(
            f"no free block of {nbytes} bytes: {client._blocks.usage()}.\n"
            "Drop arrays and results you no longer need, or raise [memory] block_budget_bytes."
        )
    flat = np.frombuffer(client._blocks.bytes_at(unit, nbytes), kind)
    client._blocks.pin_while_alive(flat.base, unit, nbytes)
    return flat.reshape(dims)
