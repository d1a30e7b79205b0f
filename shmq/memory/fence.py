"""The one memory barrier that pure Python has.

x86-64 keeps every order except store → load; ARMv8 keeps a store-release before a later
load-acquire. Releasing and re-acquiring a private, held lock is both: a full fence for about 0.1 µs.
REJECTED: `os.getpid()`, `time.sleep(0)`, a function call - slower, and not fences.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable

KEEPS_STORE_ORDER = platform.machine() == "x86_64"
"""Stores become visible in program order, loads are done in program order: no fence between them."""


def new_order_fence() -> Callable[[], None] | None:
    """A fence between two stores or two loads: None where the processor keeps their order anyway."""
    return None if KEEPS_STORE_ORDER else new_fence()


def new_fence() -> Callable[[], None]:
    """A fence for one thread (or for threads that exclude each other by a lock).

    Caller must: call it from one thread at a time; two threads would collide on the lock.
    """
    lock = threading.Lock()
    lock.acquire()
    release, acquire = lock.release, lock.acquire

    def fence() -> None:
        try:
            release()
        except RuntimeError:  # a signal handler raised between the two last time, or calls this between them
            pass
        acquire(False)  # never waits: nobody else uses the lock

    return fence
