"""What a run was made on: machine, versions, and how much the host took away meanwhile."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

import msgspec

from perf.results import Machine

DISTRIBUTIONS = (
    "shmq", "numpy", "msgspec", "posix-ipc", "loky", "pebble", "deadpool-executor", "mpire", "faster-fifo",
    "pyzmq", "ray", "distributed", "celery", "dramatiq", "rq", "redis",
)  # fmt: skip


def describe() -> Machine:
    """The machine as it is now; `finished` adds what is known only at the end."""
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        versions=_versions(),
        load_before=round(os.getloadavg()[0], 2),
    )


def finished(machine: Machine, ticks_before: tuple[int, int]) -> Machine:
    stolen, total = (now - before for now, before in zip(cpu_ticks(), ticks_before, strict=True))
    return msgspec.structs.replace(machine, steal=round(stolen / max(total, 1), 4))


def cpu_ticks() -> tuple[int, int]:
    """Ticks that the hypervisor took from this machine, and all ticks, since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


def wait_quiet(limit_s: float, share: float = 0.1, look_s: float = 0.2) -> float:
    """Waits until everybody leaves the machine alone; the share of all cores still in use at the end.

    A busy neighbour makes a wake-up ten times faster or slower: it decides whether two processes meet on one
    core, and whether the other core sleeps.
    """
    end = time.monotonic() + limit_s
    while True:
        idle_before, total_before = _idle_ticks()
        time.sleep(look_s)
        idle, total = _idle_ticks()
        busy = 1 - (idle - idle_before) / max(total - total_before, 1)
        if busy <= share or time.monotonic() >= end:
            return max(busy, 0.0)


def _idle_ticks() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "CPU implementer")):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
