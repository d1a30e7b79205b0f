"""What one process, and the shared memory of one namespace, use right now: read from outside, without a lock.

    Process(kind, name, pid, start_ticks) ──Sampler.read()──▶ Reading(t_s, values); None: it is gone

RssAnon (27 µs) is private memory without the segment: read every time. Pss_Anon (1-15 ms, during which the
process cannot map memory) counts shared private pages in part: read as often as a share of the time allows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shmq import clock
from shmq.errors import TracingError

PSS_SHARE = 0.0004  # of one core, per process watched: some twenty of them take less than a hundredth
SHM_FOLDER = Path("/dev/shm")


@dataclass(frozen=True)
class Process:
    """Whose readings these are. The start ticks tell it from a later process with the same pid."""

    kind: str  # "supervisor", "worker computation", "producer" ...: verdicts are given per kind
    name: str  # "worker computation 2"
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, kind: str, name: str, pid: int) -> Process:
        """The process that has `pid` now.

        Raises:
            TracingError: there is none.
        """
        ticks = clock.start_ticks(pid)
        if not ticks:
            raise TracingError(f"{name}: no process with pid {pid}. It has ended; look up the pid again.")
        return cls(kind, name, pid, ticks)


@dataclass(frozen=True)
class Reading:
    """`t_s` is monotonic, so that a step of the wall clock changes no rate. `values`: by quantity, see
    verdict.LIMITS.
    """

    t_s: float
    process: Process
    jobs: int | None
    values: Mapping[str, int]


class Sampler:
    """Reads processes one by one; remembers what Pss_Anon cost, to read it as often as its share allows."""

    def __init__(self, *, pss_share: float = PSS_SHARE, now: Callable[[], float] = time.monotonic) -> None:
        self._pss_share = pss_share
        self._now = now
        self._pss_due_s: dict[Process, float] = {}

    def read(self, process: Process, jobs: int | None = None) -> Reading | None:
        """One reading; None when the process has ended (also as a zombie) or may not be read.

        Args:
            process: whom to read.
            jobs: done by it so far; for a process that runs none, those of the whole system.
        """
        t_s = self._now()
        try:
            values = self._values(process, t_s)
        except (OSError, ValueError):
            values = None
        # The same ticks afterwards: all of it came from the process that was meant.
        if values is None or clock.start_ticks(process.pid) != process.start_ticks:
            self._pss_due_s.pop(process, None)
            return None
        return Reading(t_s, process, jobs, values)

    def _values(self, process: Process, t_s: float) -> dict[str, int] | None:
        folder = f"/proc/{process.pid}"
        status = _fields(Path(folder, "status").read_bytes(), (b"RssAnon", b"Threads"))
        if b"RssAnon" not in status:  # a zombie has no memory left
            return None
        values = {
            "rss_anon_bytes": status[b"RssAnon"] * 1024,
            "threads": status[b"Threads"],
            "descriptors": open_descriptors(process.pid),
        }
        if t_s >= self._pss_due_s.get(process, 0.0):
            begun = time.thread_time()  # waiting for a core is no cost to anybody
            rollup = _fields(Path(folder, "smaps_rollup").read_bytes(), (b"Pss_Anon",))
            self._pss_due_s[process] = t_s + (time.thread_time() - begun) / self._pss_share
            if b"Pss_Anon" in rollup:
                values["pss_anon_bytes"] = rollup[b"Pss_Anon"] * 1024
        return values


def open_descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process has open (since Linux 6.2 the folder's size tells)."""
    folder = f"/proc/{pid}/fd"
    own = pid in {"self", os.getpid()}  # listing takes one itself
    return os.stat(folder).st_size or len(os.listdir(folder)) - own


def shared_memory(prefixes: Sequence[str], folder: Path = SHM_FOLDER) -> dict[str, int]:
    """Entries of /dev/shm whose names begin with one of the prefixes, semaphores (`sem.` before the prefix)
    apart.

    Bytes are those that the filesystem has set aside, not the lengths that the files claim.
    """
    entries = size = semaphores = 0
    for item in os.scandir(folder):
        is_semaphore = item.name.startswith("sem.")
        if not item.name.removeprefix("sem.").startswith(tuple(prefixes)):
            continue
        try:
            size += item.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:  # removed since it was listed
            continue
        semaphores += is_semaphore
        entries += not is_semaphore
    return {"shm_entries": entries, "shm_bytes": size, "semaphores": semaphores}


def _fields(text: bytes, names: Sequence[bytes]) -> dict[bytes, int]:
    """`Name:   123 kB` lines as numbers, those of interest only."""
    found: dict[bytes, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        if name in names:
            found[name] = int(rest.split()[0])
    return found
