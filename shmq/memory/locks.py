"""Record locks: the only locks of shmq. The kernel frees them when their holder dies.

One file, one byte per thing; one descriptor per process, opened once and never closed, because
closing *any* descriptor of the file drops all of the process's locks. Record locks do not exclude
threads of one process from each other, so each `LockFile` remembers what it holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path

SUPERVISOR, RECOVERY, PLANNER = 0, 1, 2
_GROUPS, _ARENAS, _LIMITS, _PRODUCERS, _WORKERS = 64, 256, 512, 1024, 4096

_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid of 64-bit Linux


def group_byte(group: int) -> int:
    """The claim lock of a group."""
    return _GROUPS + group


def arena_byte(arena: int) -> int:
    """The allocation lock of a block arena."""
    return _ARENAS + arena


def limit_byte(index: int) -> int:
    """The lock of a task limit's state."""
    return _LIMITS + index


def producer_byte(row: int) -> int:
    """Membership of a producer: held while it lives."""
    return _PRODUCERS + row


def worker_byte(row: int) -> int:
    """Membership of a worker: held while it lives."""
    return _WORKERS + row


class LockFile:
    """This process's one descriptor of the lock file, and the bytes it holds."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        # write-only file: a task that reads files must not open (and close) it by chance
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o200)
        self._held: set[int] = set()
        self._guard = threading.Lock()

    def fileno(self) -> int:
        """The descriptor, for callers that lock a byte on their hot path."""
        return self._fd

    def try_acquire(self, byte: int) -> bool:
        """Take the byte if nobody has it, another thread of this process included."""
        with self._guard:
            if byte in self._held:
                return False
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return False
                raise
            self._held.add(byte)
            return True

    def acquire(self, byte: int) -> None:
        """Take the byte, waiting for its holder to release it or die.

        Caller must: not hold it already in this process.
        """
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, byte)
        self._held.add(byte)

    def release(self, byte: int) -> None:
        """Give the byte back."""
        self._held.discard(byte)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)

    def holder(self, byte: int) -> int:
        """Pid of the *other* process that holds the byte; 0 when nobody does."""
        answer = fcntl.fcntl(self._fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        return 0 if kind == fcntl.F_UNLCK else pid

    def forget(self) -> None:
        """In a forked child: record locks stayed with the parent."""
        self._guard = threading.Lock()
        self._held = set()


_open_files: dict[Path, LockFile] = {}


def open_once(path: Path, *, create: bool = False) -> LockFile:
    """This process's LockFile for the path; there must never be a second descriptor.

    Only the supervisor creates it: whoever made another one would lock against nobody. Raises OSError.
    """
    found = _open_files.get(path)
    if found is None:
        found = _open_files[path] = LockFile(path, create=create)
    return found
