"""Which core a thread runs on: one load from the words that the kernel keeps for each thread (restartable sequences).

REJECTED: `sched_getcpu` by ctypes - half a microsecond, ten times as much where caches are cold.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

UNKNOWN = 0
_CORE_WORD = 1  # of `struct rseq`: cpu_id
_libc = ctypes.CDLL(None)


def new_core_reader() -> Callable[[], int]:
    """The calling thread's core, counted from 1; UNKNOWN where the system does not tell (glibc older than 2.35).

    Caller must: use it in this thread only; the words end with it.
    """
    words = _words_of_thread()
    if words is None:
        return lambda: UNKNOWN
    return lambda: words[_CORE_WORD] + 1


def _words_of_thread() -> memoryview | None:
    try:
        offset = ctypes.c_ssize_t.in_dll(_libc, "__rseq_offset").value
        has_words = ctypes.c_uint.in_dll(_libc, "__rseq_size").value > 0  # 0: the kernel, or a tunable, has refused
    except ValueError:  # no such symbol
        return None
    if not has_words or platform.machine() != "x86_64":  # elsewhere `pthread_self` is not the thread pointer
        return None
    own = _libc.pthread_self
    own.restype = ctypes.c_void_p
    words = (ctypes.c_uint32 * 2).from_address(own() + offset)
    return memoryview(words).cast("B").cast("I")
