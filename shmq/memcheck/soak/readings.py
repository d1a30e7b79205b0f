"""Which processes a soak run has at this moment, one reading of each, and what is counted beside them."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shmq.clock import start_ticks
from shmq.errors import TracingError
from shmq.memcheck.recording import Recorder
from shmq.memcheck.sampling import Process, Sampler, shared_memory
from shmq.memcheck.soak.producer import TITLE as PRODUCER_TITLE
from shmq.memcheck.soak.rig import Rig
from shmq.memcheck.soak.tally import Counts
from shmq.memory.segment import segment_name

if TYPE_CHECKING:
    from shmq.observe.model import Snapshot

LOAD = "load.csv"  # jobs over time, in the run's folder: no quantity that could leak
_Who = tuple[str, str, int, int | None]  # kind, name, pid, jobs


class Readings:
    """Takes one reading of everything with each call of `take`."""

    def __init__(self, rig: Rig, recorder: Recorder, look: Callable[[], Snapshot]) -> None:
        self._rig, self._recorder, self._look = rig, recorder, look
        self._sampler = Sampler()
        self._known: dict[int, Process] = {}
        self._fork_server = 0
        self._load = (recorder.folder / LOAD).open("w", newline="")
        self._rows = csv.writer(self._load)
        self._rows.writerow(["t_s", "jobs", "failed", "retried", "recycled", "workers_started", "workers_crashed"])
        self.processes_seen = 0
        self.snapshot: Snapshot = look()

    def take(self, counts: Counts, producers: Iterable[tuple[str, str, int]]) -> None:
        """Read all processes and counters.

        Args:
            counts: what the producers have done so far.
            producers: kind, name and pid of each; those that are still starting are left out.
        """
        self.snapshot = self._look()
        present: dict[int, Process] = {}
        own = ((kind, name, pid, counts.ended) for kind, name, pid in producers if _title(pid) == PRODUCER_TITLE)
        for kind, name, pid, jobs in (*self._tree(counts.ended), *own):
            process = self._process(kind, name, pid)
            reading = None if process is None else self._sampler.read(process, jobs)
            if process is not None and reading is not None:
                present[pid] = process
                self._recorder.sample(reading)
        self._known = present
        self._count(counts)

    def close(self) -> None:
        """Close the file of the load."""
        with contextlib.suppress(OSError):  # what is left to be written does not fit a full disk
            self._load.close()

    def _process(self, kind: str, name: str, pid: int) -> Process | None:
        known = self._known.get(pid)
        if known is not None and known.name == name and start_ticks(pid) == known.start_ticks:
            return known
        with contextlib.suppress(TracingError):
            self.processes_seen += 1
            return Process.of(kind, name, pid)
        return None

    def _tree(self, jobs: int) -> Iterator[_Who]:
        snapshot = self.snapshot
        yield "supervisor", "supervisor", snapshot.supervisor_pid, jobs
        for kind, pid in (
            ("recovery", snapshot.recovery_pid),
            ("planner", snapshot.planner_pid),
            ("fork server", self._fork_server_pid()),
        ):
            if pid:
                yield kind, kind, pid, jobs
        for worker in snapshot.workers:
            if worker.state not in {"starting", "dead"}:
                yield f"worker {worker.group}", f"worker {worker.group} {worker.row}", worker.pid, worker.ended

    def _fork_server_pid(self) -> int:
        """The supervisor's child with that title; looked for again when it has gone."""
        if self._fork_server and _title(self._fork_server) == "shmq: fork server":
            return self._fork_server
        pid = self.snapshot.supervisor_pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:  # ended, or a kernel without this file
            children = []
        found = [int(child) for child in children if _title(int(child)) == "shmq: fork server"]
        workers = {worker.pid for worker in self.snapshot.workers}
        self._fork_server = min((pid for pid in found if pid not in workers), key=start_ticks, default=0)
        return self._fork_server

    def _count(self, counts: Counts) -> None:
        snapshot, name = self.snapshot, segment_name(self._rig.namespace).lstrip("/")
        shared = {
            **shared_memory([name]),
            "semaphores": self._rig.semaphores(),
            "blocks_in_use": snapshot.memory.block_used_bytes // self._rig.segment.shape.unit_bytes,
            "jobs_in_table": snapshot.memory.slots_used,
        }
        self._recorder.facts("shared memory", "shared memory", shared, jobs=counts.ended)
        groups = snapshot.groups
        with contextlib.suppress(OSError):  # a full disk ends the recording, never the run
            self._rows.writerow([
                f"{time.monotonic():.3f}", counts.ended, counts.failed,
                *(sum(getattr(group, what) for group in groups)
                  for what in ("retried", "workers_recycled", "workers_started", "workers_crashed")),
            ])  # fmt: skip
            self._load.flush()


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""
