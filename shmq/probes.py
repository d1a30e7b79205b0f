"""What the operating system says about processes, shared memory and cgroups. Reads only.

Plain /proc and /sys readings: light enough for the supervisor's loop, without psutil.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
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


def memory_of(pid: int) -> tuple[int, int]:
    """(private, shared) resident bytes of `pid`: RssAnon, and RssFile + RssShmem; zeroes when it is gone."""
    found = {b"RssAnon:": 0, b"RssFile:": 0, b"RssShmem:": 0}
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            name = line[: line.find(b":") + 1]
            if name in found:
                found[name] = int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return found[b"RssAnon:"], found[b"RssFile:"] + found[b"RssShmem:"]


def peak_of(pid: int) -> int:
    """The most resident bytes that `pid` ever had, shared ones included; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0


def oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory: in this cgroup, else on this host."""
    for path in _oom_counters():
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


@cache
def _oom_counters() -> tuple[Path, ...]:
    """Where the count may stand: cgroup v2, cgroup v1, whole host."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, folder = line.split(":", 2)
            if not controllers:
                found.append(Path("/sys/fs/cgroup") / folder.lstrip("/") / "memory.events")
            elif "memory" in controllers.split(","):
                found.append(Path("/sys/fs/cgroup/memory") / folder.lstrip("/") / "memory.oom_control")
    return (*found, Path("/proc/vmstat"))


def is_mapping(pid: int, path: str) -> bool:
    """Does `pid` map the file `path` (also when its name was removed)?

    A process whose maps we may not read counts as mapping: never guess that somebody is dead.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            # whole names only: the segment of another namespace may begin with this one's name
            ends = (f" {path}\n".encode(), f" {path} (deleted)\n".encode())
            return any(line.endswith(ends) for line in maps)
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
