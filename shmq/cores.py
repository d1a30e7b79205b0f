"""Which core a thread runs on: one load from the words that the kernel keeps for each thread (restartable sequences).

REJECTED: `sched_getcpu` by ctypes - half a microsecond, ten times as much where caches are cold.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

UNKNOWN = 0
_CORE_WORD = 1  # of `struct rseq`: cpu_id
_NOT_REGISTERED = 1 << 31  # from here on: -1 and -2
_libc = ctypes.CDLL(None)


def core() -> int:
    """The calling thread's core, counted from 1; UNKNOWN with glibc before 2.35, rseq refused, or no x86-64."""
    return _thread.core()


def _words_of_thread() -> memoryview | None:
    if not is_told() or os.uname().machine != "x86_64":  # elsewhere `pthread_self` is not the thread pointer
        return None
    offset = ctypes.c_ssize_t.in_dll(_libc, "__rseq_offset").value
    own = _libc.pthread_self
    own.restype = ctypes.c_void_p
    words = (ctypes.c_uint32 * 2).from_address(own() + offset)
    return memoryview(words).cast("B").cast("I")  # a view of ctypes has a format that cannot be indexed


def is_told() -> bool:
    """Does libc have such words, and has the kernel taken them?"""
    try:
        return ctypes.c_uint.in_dll(_libc, "__rseq_size").value > 0
    except ValueError:  # no such symbol
        return False


class _Thread(threading.local):
    """Made anew in each thread, for its words end with it. A forked child's thread goes on with that of its parent."""

    def __init__(self) -> None:
        words = _words_of_thread()
        if words is None or words[_CORE_WORD] >= _NOT_REGISTERED:
            self.core: Callable[[], int] = lambda: UNKNOWN
        else:
            self.core = lambda: words[_CORE_WORD] + 1


_thread = _Thread()
