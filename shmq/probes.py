"""What the operating system says about processes, shared memory and cgroups. Reads only.

Plain /proc and /sys readings: light enough for the supervisor's loop, without psutil.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def shm_free_bytes() -> int:
    """Bytes that /dev/shm can still take."""
    fs = os.statvfs("/dev/shm")
    return fs.f_bavail * fs.f_frsize


def cgroup_free_bytes() -> int | None:
    """What this process's memory cgroup, or one above it, can still take before the kernel kills; None: no limit."""
    free = [found for folder in _memory_cgroups() if (found := _free_in(folder)) is not None]
    return min(free, default=None)


def _free_in(folder: Path) -> int | None:
    """Limit less usage. Pages of files that the kernel would drop first are no usage: a busy host is full of them."""
    v1 = (folder / "memory.limit_in_bytes").exists()
    try:
        limit = (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).read_text().strip()
        used = int((folder / ("memory.usage_in_bytes" if v1 else "memory.current")).read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(counts.get(("total_" if v1 else "") + name, 0)) for name in ("inactive_file", "active_file"))
        free = None if limit == "max" or int(limit) > _NO_LIMIT else int(limit) - used + cached
    except (OSError, ValueError):
        return None
    return free


_NO_LIMIT = 1 << 60  # version 1 writes a huge number


@cache
def _memory_cgroups() -> tuple[Path, ...]:
    """Folders of this process's memory cgroup and of those above it, innermost first, in version 1 or 2.

    In a container the path may be the host's: what does not exist below /sys is left out, its root is the container's.
    """
    found: list[Path] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                root = CGROUPS / "memory" if controllers else CGROUPS
                inner = root / name.lstrip("/")
                found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
    return tuple(folder for folder in found if (folder / "memory.stat").exists())


def memory_of(pid: int) -> tuple[int, int]:
    """(private, shared) resident bytes of `pid`, as RssAnon, and RssFile + RssShmem, say; zeroes when it is gone."""
    try:
        _, resident, shared, *_ = _read(f"/proc/{pid}/statm").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return (int(resident) - int(shared)) * _PAGE_BYTES, int(shared) * _PAGE_BYTES


def peak_of(pid: int) -> int:
    """The most resident bytes that `pid` ever had, shared ones included; 0 when it is gone."""
    try:
        for line in _read(f"/proc/{pid}/status").splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0


def oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory: in this cgroup, else on this host."""
    for path in _oom_counters():
        try:
            lines = _read(path).splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(b" ")
            if name == b"oom_kill":
                return int(value)
    return 0


@cache
def _oom_counters() -> tuple[str, ...]:
    """Files that may count kills, the nearest first."""
    own = [folder / name for folder in _memory_cgroups()[:1] for name in ("memory.events", "memory.oom_control")]
    return tuple(str(path) for path in (*own, Path("/proc/vmstat")) if path.exists())


def stat_of(pid: int) -> bytes:
    """What /proc/PID/stat says of `pid`, from its state on; b"" when there is no such process."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return b""
    return stat[stat.rindex(b")") + 2 :]


def _read(path: str) -> bytes:
    """A file of the kernel's, with half the system calls of `open`: an idle system costs what it looks at."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while part := os.read(fd, _PAGE_BYTES):  # one read gives a page at most
            content += part
        return content
    finally:
        os.close(fd)


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
    except OSError:
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
