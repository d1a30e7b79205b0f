"""The few Linux calls that Python does not offer: prctl for parent-death signals and subreapers."""

from __future__ import annotations

import ctypes
import os
import signal
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def die_with_parent(parent_pid: int) -> bool:
    """SIGKILL me when my parent ends; False when `parent_pid` does not become my parent.

    A worker is forked twice and re-parented when its middle process ends: wait for that first,
    since the death signal belongs to the parent at the time of the call.
    """
    give_up = time.monotonic() + 5.0
    while os.getppid() != parent_pid:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.0002)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent_pid  # it may have died before the signal was set


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent ended (subreaper)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
