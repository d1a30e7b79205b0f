"""Run a piece of a test as a container would: a forked child in namespaces of its own.

    inside(body, MOUNT, mounts={"/dev/shm": "size=1m"})

Root makes them directly; others need a user namespace first, which some systems forbid: then the test is skipped.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shmq import clock
from tests.live import in_child

MOUNT, USER, PID, TIME = 0x0002_0000, 0x1000_0000, 0x2000_0000, 0x80
_READ_ONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 0x1000, 0x4000, 1 << 18
_FORBIDDEN = 77
_libc = ctypes.CDLL(None, use_errno=True)


def inside(body: Callable[[], object], flags: int = 0, mounts: dict[str, str] | None = None) -> None:
    """Run `body` in a child; what it raises fails the test.

    Args:
        flags: MOUNT | PID | TIME, the namespaces that are the child's own.
        mounts: a tmpfs for each path, with its options.
    """
    status = in_child(lambda: _enter_and_run(body, flags, mounts or {}))
    if status == _FORBIDDEN:
        pytest.skip("this system lets this user make no namespaces: run as root, or allow user namespaces")
    assert status == 0, f"the child ended with {status}; see its traceback"


def _enter_and_run(body: Callable[[], object], flags: int, mounts: dict[str, str]) -> None:
    try:
        _unshare(flags)
        for path, options in mounts.items():
            mount(path, options)
    except OSError:
        os._exit(_FORBIDDEN)
    if flags & (PID | TIME):  # both hold for children only
        status = in_child(lambda: _with_own_proc(body, flags))
        if status:
            os._exit(status)
    else:
        body()


def _with_own_proc(body: Callable[[], object], flags: int) -> None:
    clock.pid_namespace.cache_clear()  # a program that was started here would not know them yet
    clock.time_namespace.cache_clear()
    if flags & PID:
        _checked(_libc.mount(b"proc", b"/proc", b"proc", 0, None))
    body()


def _unshare(flags: int) -> None:
    if not flags:
        return
    uid = os.geteuid()
    _checked(_libc.unshare(flags | (USER if uid else 0)))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    if flags & MOUNT:
        _checked(_libc.mount(None, b"/", None, _REC | _PRIVATE, None))


def mount(path: str, options: str) -> None:
    """A tmpfs at the path; options as `mount -o` takes them."""
    words = options.split(",")
    rest = ",".join(word for word in words if word != "ro")
    _checked(_libc.mount(b"tmpfs", path.encode(), b"tmpfs", _READ_ONLY * ("ro" in words), rest.encode()))


def make_read_only(path: str) -> None:
    """What is mounted there, as a container sees it that may only read; others write on."""
    _checked(_libc.mount(path.encode(), path.encode(), None, _BIND, None))
    _checked(_libc.mount(None, path.encode(), None, _BIND | _REMOUNT | _READ_ONLY, None))


def be_opaque() -> None:
    """As a program with file capabilities is: no process of its user may look into this one. Not as root."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    _checked(_libc.prctl(4, 0, 0, 0, 0))


def _checked(answer: int) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
