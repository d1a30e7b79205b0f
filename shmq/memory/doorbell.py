"""Doorbells: hints that there may be something to look at. Losing one costs one bounded sleep.

    sleeper                          waker
    ───────                          ─────
    say "I sleep"                    make the work visible
    fence      SYNC POINT: doorbell  fence
    look for work                    does anybody sleep?
    wait (at most RESCUE_S, or       notify
      IDLE_S once that was in vain)

Two kinds with one interface. A semaphore costs 0.11 µs and suits a thread that only waits; a
FIFO costs 1.1 µs and suits whoever sleeps in `poll` or an event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import time
from pathlib import Path
from typing import Protocol

import posix_ipc

_SHM = "/dev/shm"
RESCUE_S = 0.1
"""Longest sleep without another look: the most that a lost notification can cost."""
IDLE_S = 1.0
"""The same for a worker that has slept RESCUE_S in vain: the supervisor looks for it meanwhile (`Rescue`)."""


BellClosed = posix_ipc.ExistentialError
"""What `notify` of a semaphore raises after `close`."""


class Doorbell(Protocol):
    """What a waker needs."""

    def notify(self) -> None:
        """Wake the sleeper, or make its next wait return at once."""

    def close(self) -> None:
        """Close this process's handle."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_libc = ctypes.CDLL(None)
_clockwait = getattr(_libc, "sem_clockwait", None)  # glibc from 2.30
_MONOTONIC = ctypes.c_int(time.CLOCK_MONOTONIC)
if _clockwait is not None:
    _sem_open, _sem_close = _libc.sem_open, _libc.sem_close
    _sem_open.restype, _sem_open.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    _sem_close.argtypes = (ctypes.c_void_p,)


def _semaphore(name: str, flags: int) -> posix_ipc.Semaphore:
    """Open or make one. Raises OSError with its number: posix_ipc has classes of its own for some, none for others."""
    try:
        return posix_ipc.Semaphore(name, flags, mode=0o600)
    except posix_ipc.PermissionsError:
        number = errno.EACCES
    except posix_ipc.ExistentialError:
        number = errno.EEXIST if flags else errno.ENOENT
    except MemoryError:
        number = errno.ENOMEM
    except OSError as error:
        number = error.errno or errno.EMFILE  # the one that it gives no number
    raise OSError(number, os.strerror(number))


class SemaphoreBell:
    """A named POSIX semaphore. Raises OSError when it cannot be opened or made."""

    def __init__(self, name: str, *, create: bool = False) -> None:
        self.name = name
        self._semaphore = _semaphore(name, posix_ipc.O_CREX if create else 0)
        self.notify = self._semaphore.release
        self._handle: ctypes.c_void_p | None = None  # libc's, for waiting
        self._until = _Timespec()
        self._until_ref = ctypes.byref(self._until)
        self._rescue_s = 0.0  # the moment `doze` gives up, kept for as many calls as it serves

    def wait(self, timeout_s: float) -> bool:
        """Sleep until notified or `timeout_s` has passed; True when notified.

        By libc itself where it can: posix_ipc times out by the wall clock, and replaces what a
        signal handler raised by its own SignalError. A handler ends the sleep early; callers look
        again anyway.
        """
        handle = self._handle or self._open()
        if handle is None or _clockwait is None:
            return self._wait_by_wall_clock(timeout_s)
        self._rescue_s = 0.0
        until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(timeout_s * 1e9)
        self._until.seconds, self._until.nanoseconds = divmod(until, 1_000_000_000)
        return bool(_clockwait(handle, _MONOTONIC, self._until_ref) == 0)

    def doze(self, longest_s: float = RESCUE_S) -> bool:
        """As `wait(longest_s)`, for whoever only wants a bound: half of it at least. False only when that is over.

        What libc is told stays the same for many calls: a short sleep costs a third of `wait`. A signal handler ends
        it early as well, and whoever looks then has not slept in vain (with an old libc it says False for that, too).
        """
        handle = self._handle or self._open()
        if handle is None or _clockwait is None:
            return self._wait_by_wall_clock(longest_s)
        now = time.monotonic()
        if not now + longest_s / 2 < self._rescue_s <= now + longest_s:
            self._rescue_s = now + longest_s
            self._until.seconds, self._until.nanoseconds = divmod(int(self._rescue_s * 1e9), 1_000_000_000)
        return bool(_clockwait(handle, _MONOTONIC, self._until_ref) == 0 or time.monotonic() < self._rescue_s)

    def _open(self) -> ctypes.c_void_p | None:
        """Libc's handle; None with an old libc, or when somebody has removed the name meanwhile."""
        opened = _sem_open(self.name.encode(), 0) if _clockwait is not None else None
        self._handle = ctypes.c_void_p(opened) if opened else None
        return self._handle

    def _wait_by_wall_clock(self, timeout_s: float) -> bool:
        try:
            self._semaphore.acquire(timeout_s)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True

    def is_rung(self) -> bool:
        """Has it been notified, and nobody has woken of that yet?"""
        return bool(self._semaphore.value > 0)

    def clear(self) -> None:
        """Drop surplus notifications, so that the next wait sleeps."""
        with contextlib.suppress(posix_ipc.BusyError, posix_ipc.SignalError):
            while True:
                self._semaphore.acquire(0)

    def close(self) -> None:
        """Close this process's handles."""
        if self._handle is not None:
            _sem_close(self._handle)
            self._handle = None
        self._semaphore.close()

    def unlink(self) -> None:
        """Remove the name; handles stay usable."""
        unlink(self.name)

    def remove(self) -> None:
        """Name and handles, whatever any row says by now."""
        self.unlink()
        self.close()


def new_name(segment_name: str) -> str:
    """A name for a semaphore of the segment: nobody can have squatted on 128 random bits.

    Whoever writes it into its row *before* creating the semaphore leaks none when it is killed in between.
    """
    return f"/{segment_name}.{os.urandom(16).hex()}"


def names_of(segment_name: str) -> list[str]:
    """Semaphores of the segment that exist, whether a row still names them or not."""
    is_ours = re.compile(rf"sem\.{re.escape(segment_name)}\.[0-9a-f]{{32}}").fullmatch
    return ["/" + name.removeprefix("sem.") for name in sorted(filter(is_ours, os.listdir(_SHM)))]


class FifoBell:
    """A named pipe below the state directory; a full pipe already means "notified"."""

    _fd = -1

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.name = str(path)
        if create and not Path(path).is_fifo():  # an existing one stays: others hold it open
            Path(path).unlink(missing_ok=True)
            os.mkfifo(path, 0o600)
        # O_RDWR: never blocks at open, never sees end-of-file, works with one side only
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def fileno(self) -> int:
        """For poll, select and event loops."""
        return self._fd

    def notify(self) -> None:
        """Wake whoever polls the pipe."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, b"\1")

    def clear(self) -> None:
        """Drop all notifications."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._fd, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Close this process's handle; once is enough, and a bell that is dropped closes itself."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close

    def unlink(self) -> None:
        """Remove the name; handles stay usable."""
        unlink(self.name)


class NoBell:
    """Stands in for a bell whose owner is gone: there is nobody to wake."""

    def notify(self) -> None:
        """Nothing to do: whoever takes the row over looks at the table first."""

    def close(self) -> None:
        """Nothing to do."""


def open_bell(name: str) -> Doorbell:
    """The bell a row names: a path is a FIFO, "/shmq-..." a semaphore. A vanished one is silent."""
    try:
        return SemaphoreBell(name) if is_semaphore(name) else FifoBell(name)
    except (OSError, ValueError):
        return NoBell()


def is_semaphore(name: str) -> bool:
    """Semaphore names have no folder."""
    return name.startswith("/shmq-") and name.count("/") == 1


def unlink(name: str) -> None:
    """Remove a bell's name; fine when it is gone already, or another user's who took such a name."""
    if is_semaphore(name):
        with contextlib.suppress(posix_ipc.ExistentialError, posix_ipc.PermissionsError):
            posix_ipc.unlink_semaphore(name)
    elif name:
        Path(name).unlink(missing_ok=True)


def deadline(timeout_s: float | None) -> float:
    """`time.monotonic()` value at which a wait gives up (infinity for None)."""
    return float("inf") if timeout_s is None else time.monotonic() + timeout_s
