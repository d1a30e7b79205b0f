"""What the operating system says about processes, shared memory and cgroups. Reads only.

Plain /proc and /sys readings: light enough for the supervisor's loop, without psutil.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def shm_free_bytes() -> int:
    """Bytes that /dev/shm can still take."""
    fs = os.statvfs("/dev/shm")
    return fs.f_bavail * fs.f_frsize


def cgroup_free_bytes() -> int | None:
    """memory.max - memory.current of this process's cgroup (v2); None without a limit."""
    try:
        line = next(x for x in Path("/proc/self/cgroup").read_text().splitlines() if x.startswith("0::"))
        folder = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
        limit = (folder / "memory.max").read_text().strip()
        current = int((folder / "memory.current").read_text())
    except (OSError, StopIteration, ValueError):
        return None
    return None if limit == "max" else int(limit) - current


def rss_anon_bytes(pid: int) -> int:
    """Private memory of `pid` without the segment (RssAnon); 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0


def is_mapping(pid: int, path: str) -> bool:
    """Does `pid` map the file `path` (also when its name was removed)?

    A process whose maps we may not read counts as mapping: never guess that somebody is dead.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            needle = path.encode()
            return any(needle in line for line in maps)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except PermissionError:
        return True


def thread_count() -> int:
    """Threads of this process, those of C libraries included."""
    return len(os.listdir("/proc/self/task"))


def processes() -> Iterator[int]:
    """Pids of all processes that this process can see."""
    with contextlib.suppress(FileNotFoundError):
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def cpu_count() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0))
