"""Which core a thread runs on: one load from the words that the kernel keeps for each thread (restartable sequences).

REJECTED: `sched_getcpu` by ctypes - half a microsecond, ten times as much where caches are cold.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

UNKNOWN = 0
_CORE_WORD = 1  # of `struct rseq`: cpu_id
_NOT_REGISTERED = 1 << 31  # from here on: -1 and -2
_libc = ctypes.CDLL(None)


def new_core_reader() -> Callable[[], int]:
    """The calling thread's core, counted from 1; UNKNOWN with glibc before 2.35, rseq refused, or no x86-64.

    Caller must: use it in this thread only; the words end with it.
    """
    words = _words_of_thread()
    if words is None or words[_CORE_WORD] >= _NOT_REGISTERED:
        return lambda: UNKNOWN
    return lambda: words[_CORE_WORD] + 1


def _words_of_thread() -> memoryview | None:
    if not is_told() or os.uname().machine != "x86_64":  # elsewhere `pthread_self` is not the thread pointer
        return None
    own = _libc.pthread_self
    own.restype = ctypes.c_void_p
    offset = ctypes.c_ssize_t.in_dll(_libc, "__rseq_offset").value
    words = (ctypes.c_uint32 * 2).from_address(own() + offset)
    return memoryview(words).cast("B").cast("I")  # a view of ctypes has a format that cannot be indexed


def is_told() -> bool:
    """Does libc have such words, and has the kernel taken them?"""
    try:
        return ctypes.c_uint.in_dll(_libc, "__rseq_size").value > 0
    except ValueError:  # no such symbol
        return False
