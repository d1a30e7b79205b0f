"""One leak per task, and two tasks that only look like one. Each runs in a group of its own name.

The line that leaks is marked `# LEAK: <task>`. `number` counts up with the jobs of the task.
"""

from __future__ import annotations

import ctypes
import os

import shmq

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
KEPT: list[object] = []
CACHE: dict[int, bytes] = {}
CACHE_SIZE = 4_000


@shmq.task(group="list")
def grow_list(number: int) -> int:
    digits = [str(n) for n in range(20)]
    KEPT.append(bytes(59))  # LEAK: grow_list
    return len(digits) + number


@shmq.task(group="small")
def grow_little(number: int) -> int:
    KEPT.append(bytes(9))  # LEAK: grow_little
    return number


class Phoenix:
    """A cycle whose finalizer saves it."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        KEPT.append(self)


@shmq.task(group="cycle")
def cycle_with_del(number: int) -> int:
    Phoenix()  # LEAK: cycle_with_del
    return number


@shmq.task(group="ctypes")
def c_malloc(number: int) -> int:
    address = LIBC.malloc(200)  # LEAK: c_malloc
    ctypes.memset(address, 1, 200)
    return number


@shmq.task(group="failing")
def only_when_failing(number: int) -> int:
    if number % 10 == 0:
        KEPT.append(bytes(2000))  # LEAK: only_when_failing
        raise ValueError(number)
    return number


@shmq.task(group="descriptors")
def descriptors(number: int) -> int:
    closed = os.open("/dev/null", os.O_RDONLY)
    if number % 20 == 0:
        os.open("/dev/null", os.O_RDONLY)  # LEAK: descriptors
    os.close(closed)
    return number


@shmq.task(group="blocks")
def keep_block(number: int) -> int:
    array = shmq.empty(500)  # LEAK: keep_block
    if number % 20 == 0:
        KEPT.append(array)
    return len(array)


@shmq.task(group="cache")
def levelling_cache(number: int) -> int:
    CACHE[len(CACHE) % CACHE_SIZE] = bytes(1000)
    return number


@shmq.task(group="clean")
def clean(number: int) -> int:
    text = [str(number + i) for i in range(50)]
    loop: dict[str, object] = {"text": text}
    loop["self"] = loop
    return number
