"""The process tree under attack: started, watched, killed piece by piece, started again."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shmq import clock, kernel
from shmq.config.model import Config, Group, Memory
from shmq.config.model import Supervisor as SupervisorSettings
from shmq.errors import ShmqError
from shmq.memory.layout import WORKER, WORKER_FREE, WORKER_LIVE
from shmq.memory.segment import Segment, attach, segment_name
from shmq.supervisor.main import supervise
from tests.crash.chaos.producer import nursery

_PATIENCE_S = 60.0
WORKER_KILL, PRODUCER_KILL, SUPERVISOR_KILL, SERVER_KILL, RECOVERY_KILL, PLANNER_KILL = (
    "worker", "producer", "supervisor", "fork server", "recovery", "planner",
)  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: when, of what, and which workers died of it."""

    kind: str
    at_ns: int
    workers: tuple[int, ...] = ()


class Crew:
    """One supervisor, one nursery of producers, and how to kill any of them."""

    def __init__(self, folder: Path, namespace: str, seed: int, producers: int) -> None:
        self.folder, self.namespace, self.seed = folder, namespace, seed
        self.config = Config(
            namespace=namespace, tasks=("tests.crash.chaos.tasks",),
            groups={
                "computation": Group(min_workers=2, max_workers=2, mode="fixed"),
                "waiting": Group(min_workers=3, max_workers=3, mode="fixed", kind="io"),
            },
            memory=Memory(
                max_producers=16, slots_per_producer=512, max_workers=32,
                block_budget_bytes=64 << 20, block_unit_bytes=8192,
            ),
            supervisor=SupervisorSettings(state_dir=str(folder / "state"), task_output="inherit"),
        )  # fmt: skip
        self.kills: list[Kill] = []
        self._chance = random.Random(seed)
        self._producers = producers
        self._supervisor = 0
        self._nursery = 0
        self._channel: socket.socket | None = None
        self._registry = 0
        self._statuses: dict[int, int] = {}
        kernel.adopt_orphans()  # workers of a killed supervisor become ours to reap

    # -- starting and stopping -----------------------------------------------------------------

    def start_supervisor(self, segment: Segment | None = None) -> None:
        """Fork the next one."""
        self._registry = 0 if segment is None else segment.header("registry")
        self._supervisor = self._fork(lambda: supervise(self.config, self.folder / "config.toml"))

    def start_producers(self) -> None:
        """Once; they live through every restart of the supervisor."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ledger = self.folder / "ledger"

        def serve() -> int:
            ours.close()
            import numpy as np  # noqa: F401 - whatever producers need, imported once

            import shmq.client.client  # noqa: F401
            import tests.crash.chaos.tasks  # noqa: F401

            nursery(theirs, ledger, self.namespace, self._producers, self.seed)
            return 0

        self._nursery = self._fork(serve)
        theirs.close()
        ours.settimeout(_PATIENCE_S)
        self._channel = ours

    def _fork(self, main: Callable[[], int]) -> int:
        driver = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 2)
            if kernel.die_with_parent(driver):
                status = main()
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def finish_producers(self) -> tuple[int, int]:
        """Let them read what is open: (how many were born, how many ended badly)."""
        assert self._channel is not None
        self._channel.settimeout(3 * _PATIENCE_S)
        self._channel.send(b"Q")
        born, failed = self._channel.recv(64).split()
        self._wait(self._nursery)
        self._nursery = 0
        return int(born), int(failed)

    def stop_supervisor(self) -> int:
        """SIGTERM; its exit status."""
        os.kill(self._supervisor, signal.SIGTERM)
        status = self._wait(self._supervisor)
        self._supervisor = 0
        return status

    def abandon(self) -> None:
        """Whatever happened: leave no process."""
        for pid in (self._supervisor, self._nursery):
            if pid:
                os.kill(pid, signal.SIGKILL)
                self._wait(pid)
        self.reap()

    def reap(self) -> None:
        """Orphans that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._nursery:  # no other: pids are used again, and a former orphan's says nothing
                self._statuses[pid] = status
            if pid == self._supervisor:
                self._supervisor = 0
                raise ShmqError(f"the supervisor ended by itself with status {status:#x}; see {self.folder / 'log'}")

    def _wait(self, pid: int) -> int:
        return self._statuses.pop(pid) if pid in self._statuses else os.waitpid(pid, 0)[1]

    def segment(self) -> Segment:
        """The segment, once there is one."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return attach(segment_name(self.namespace))
            except ShmqError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.01)

    # -- killing -------------------------------------------------------------------------------

    def kill(self, kind: str, segment: Segment) -> bool:
        """Kill one of the kind; False when there is none at this moment."""
        if kind == PRODUCER_KILL:
            assert self._channel is not None
            self._channel.send(b"K")
            at = clock.now_ns()
            if self._channel.recv(8) != b"k":
                return False
            self.kills.append(Kill(kind, at))
            return True
        if kind == WORKER_KILL:
            return self._kill_worker(segment)
        if kind == SUPERVISOR_KILL:
            return self._kill_supervisor(segment)
        if kind == SERVER_KILL and segment.header("registry") == self._registry:
            return False  # one that dies in its supervisor's first import ends that too, as a broken module does
        return self._kill_helper(kind)

    def _kill_worker(self, segment: Segment) -> bool:
        rows = [r for r in segment.rows("worker_rows") if r[WORKER["state"]] == WORKER_LIVE and r[WORKER["pid"]]]
        if not rows:
            return False
        row = self._chance.choice(rows)
        pid, ticks = int(row[WORKER["pid"]]), int(row[WORKER["ticks"]])
        if not _kill_exactly(pid, ticks):
            return False
        self.kills.append(Kill(WORKER_KILL, clock.now_ns(), (pid,)))
        return True

    def _kill_supervisor(self, segment: Segment) -> bool:
        if segment.header("supervisor_pid") != self._supervisor or not any(
            row[WORKER["state"]] == WORKER_LIVE for row in segment.rows("worker_rows")
        ):
            return False  # it is still starting: killing it over and over shows nothing new
        os.kill(self._supervisor, signal.SIGKILL)
        at = clock.now_ns()
        self._wait(self._supervisor)
        rows = segment.rows("worker_rows")
        workers = tuple(int(r[WORKER["pid"]]) for r in rows if r[WORKER["state"]] != WORKER_FREE and r[WORKER["pid"]])
        self.kills.append(Kill(SUPERVISOR_KILL, at, workers))
        self.start_supervisor(segment)
        return True

    def _kill_helper(self, kind: str) -> bool:
        for pid in _children(self._supervisor):
            if _title(pid) == f"shmq: {kind}" and _kill_exactly(pid, clock.start_ticks(pid)):
                self.kills.append(Kill(kind, clock.now_ns()))
                return True
        return False


def _kill_exactly(pid: int, ticks: int) -> bool:
    """SIGKILL by pidfd, only if the pid still names the process that started at `ticks`."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if clock.start_ticks(pid) != ticks or clock.process_state(pid) in {"Z", "X", ""}:
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""
