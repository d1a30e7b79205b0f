"""Time and identity of processes: what the kernel says, never the wall clock.

`time.monotonic` agrees between all processes of one boot, so shared words hold its nanoseconds.
A pid alone proves nothing (pids are reused); pid and start ticks together name one process.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

from shmq.probes import stat_of

now_ns = time.monotonic_ns
"""Monotonic nanoseconds, comparable between processes of one boot."""

NS = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Seconds as nanoseconds, bounded so that a sum with `now_ns` fits 63 bits."""
    return int(min(max(seconds, 0.0), 4e9) * NS)


@cache
def boot_id() -> int:
    """63 bits that differ between boots; deadlines of another boot are meaningless."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    return int(text.strip().replace("-", ""), 16) & (2**63 - 1)


@cache
def pid_namespace() -> int:
    """Inode of this process's pid namespace: pids of another one name other processes."""
    return os.stat("/proc/self/ns/pid").st_ino


@cache
def time_namespace() -> int:
    """Inode of this process's time namespace: the monotonic clock of another one may differ. 0: the kernel has none."""
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:
        return 0


def start_ticks(pid: int) -> int:
    """Clock ticks after boot at which `pid` started; 0 when there is no such process."""
    after_name = stat_of(pid)
    return int(after_name.split()[19]) if after_name else 0


def process_state(pid: int) -> str:
    """The kernel's one-letter state of `pid` (R, S, T, Z ...); "" when there is no such process."""
    return stat_of(pid)[:1].decode()
