"""The stage: segment, state directory, configuration, and the actors' parts that one process can play."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shmq.client import client as client_module
from shmq.client.client import Client
from shmq.client.handle import Job
from shmq.config.model import Config, Group
from shmq.memory import doorbell, locks
from shmq.memory.layout import PRODUCER, WORD, WORKER, WORKER_DEAD, WORKER_FREE, Shape
from shmq.memory.segment import create, segment_name, unlink
from shmq.supervisor.recovery import Recovery
from shmq.tasks import registry
from shmq.tasks.task import Task
from shmq.transport.redeliver import Redeliverer
from shmq.transport.table import CRASH, FIRST_FREE, STATE
from shmq.wire.header import CALL, HEADER, HEADER_BYTES, Header
from tests.crash.stage import board, tasks
from tests.crash.stage.bench import Bench

SHAPE = Shape(
    groups=2, producers=3, slots_per_producer=8, slot_bytes=256, workers=4, units=16, unit_bytes=4096, arenas=2
)
GROUPS = {"computation": Group(retries=0, escalate_to=""), "other": Group(retries=0, escalate_to="")}
HELPER = 3
"""Worker row of the bench that finishes what is left; rows 0 to 2 are for those that die."""


@dataclass
class Sent:
    """A job as the stage's own producer sent it."""

    task: Task[..., Any]
    job: Job[Any] | None  # None: nobody can read its result any more
    part: int | None = None  # which call of a chunk
    is_dead_letter: bool = False
    slot: int = -1
    generation: int = 0


class Stage:
    """One small segment. `reset()` brings it back to its first moment."""

    def __init__(self, namespace: str, shape: Shape = SHAPE) -> None:
        # tmpfs: dead letters are synced to it thousands of times
        self.folder = Path(tempfile.mkdtemp(prefix=f"{namespace}-", dir="/dev/shm"))
        self.namespace = namespace
        self.config = Config(namespace=namespace, groups=GROUPS)
        self.name = segment_name(namespace)
        self.segment = create(self.name, shape, groups=list(GROUPS), state_dir=self.folder, max_attempts=3)
        self.segment.view("words")[:] = memoryview(FIRST_FREE.to_bytes(8, "little") * shape.slots).cast(WORD)
        self.tasks = {task.key: task for task in tasks.TASKS}
        registry.publish(self.tasks, self.folder)
        self.segment.set_header("registry", 1)
        self._first_moment = self.segment.map[:]
        self.lock_file = locks.open_once(self.folder / "lock", create=True)
        self.recovery = Recovery(self.name, self.config)
        self.lock_file.release(locks.RECOVERY)
        self.dead_pid = self._a_dead_pid()
        self.sent: dict[int, Sent] = {}
        self.clients: list[Client] = []

    @staticmethod
    def _a_dead_pid() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return pid

    def reset(self) -> None:
        """As on the first day."""
        self.segment.map[:] = self._first_moment
        board.clear()
        (self.folder / "dead.sqlite").unlink(missing_ok=True)
        self.sent.clear()
        self.clients.clear()

    def drop(self) -> None:
        """Let go of what an unfinished round holds: locks, clients, doorbells."""
        for client in self.clients:
            client._is_closed = True
        self.clients.clear()
        self.sent.clear()
        for byte in list(self.lock_file._held):
            self.lock_file.release(byte)
        for name in self.bells_left():
            doorbell.unlink(name)

    def close(self) -> None:
        """Leave nothing behind."""
        for name in self.bells_left():
            doorbell.unlink(name)
        unlink(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def bells_left(self) -> list[str]:
        """Semaphores of this stage that still have a name."""
        return doorbell.names_of(self.name)

    # -- producers -------------------------------------------------------------------------

    def client(self, *, attached: bool = False) -> Client:
        """A producer in this process; it attaches the segment itself, or uses the stage's mapping."""
        attach = client_module.attach
        if not attached:
            client_module.attach = lambda _name: self.segment
        try:
            client = Client(self.namespace)
        finally:
            client_module.attach = attach
        self.clients.append(client)
        return client

    def send(
        self, client: Client, number: int, task: Task[..., Any] = tasks.note, size: int = 24,
        block: float | None = None, **options: Any,
    ) -> Job[Any]:  # fmt: skip
        """Submit job `number`; it counts as accepted from the return of `submit` on. With `block` the slow way."""
        argument: Any = np.full(1500, float(number)) if task is tasks.doubled else tasks.text_of(number, size)
        job = client.submit_task(task.options(**options) if options else task, (number, argument), block=block)
        board.accepted[number] = 1
        is_read = not options.get("forget")
        self.sent[number] = Sent(task, job if is_read else None, None, False, job._slot, job._generation)
        return job

    def send_chunk(self, client: Client, numbers: range) -> None:
        """Submit several jobs as one, as `map` does."""
        job = client.submit_chunk(tasks.called, [(number, tasks.text_of(number)) for number in numbers])
        for part, number in enumerate(numbers):
            board.accepted[number] = 1
            self.sent[number] = Sent(tasks.called, job, part, False, job._slot, job._generation)

    def wear_out(self, number: int) -> None:
        """The next crash of the job shall be its last."""
        sent = self.sent[number]
        sent.is_dead_letter = True
        board.fatal[number] = 1
        self.segment.view("words")[sent.slot] += 2 * CRASH

    def abandon(self, client: Client) -> None:
        """As if the client's process had died just now: its byte is free, its row names a dead process."""
        index = client._row.index
        row = self.segment.rows("producer_rows")[index]
        row[PRODUCER["pid"]], row[PRODUCER["ticks"]] = self.dead_pid, 1
        self.lock_file.release(locks.producer_byte(index))
        client._is_closed = True
        self.clients.remove(client)
        for sent in self.sent.values():
            if sent.job is not None and sent.job._origin.client is client:
                sent.job = None

    # -- workers and recovery --------------------------------------------------------------

    def bench(self, index: int, group: int = 0) -> Bench:
        """A worker in this process."""
        return Bench(self.segment, self.lock_file, self.tasks, index, group, list(GROUPS.items())[group])

    def bury_row(self, index: int, *, status: int = 9, reason: int = 0, culprit: int = 0) -> None:
        """What the supervisor writes when it has reaped a worker."""
        row = self.segment.rows("worker_rows")[index]
        if row[WORKER["state"]] == WORKER_FREE:
            return
        row[WORKER["exit_status"]], row[WORKER["culprit"]], row[WORKER["reason"]] = status, culprit, reason
        row[WORKER["state"]] = WORKER_DEAD
        self.segment.view("sleeping")[row[WORKER["group"]] * self.segment.layout.sleepers + 1 + index] = 0

    def fresh_recovery(self) -> Recovery:
        """Recovery as after a restart: it knows only what the table says."""
        self.recovery._redeliverer = Redeliverer(self.recovery._segment, self.lock_file)
        self.recovery._next_tidy = 0.0
        return self.recovery

    # -- looking ---------------------------------------------------------------------------

    def words(self) -> list[int]:
        """The job table."""
        return list(self.segment.view("words"))

    def states(self) -> list[int]:
        """States of the job table."""
        return [word & STATE for word in self.words()]

    def numbers_of(self, slot: int, generation: int) -> list[int]:
        """Which jobs lie in the slot; of a producer that was killed in a process of its own, its message tells."""
        own = [n for n, sent in self.sent.items() if (sent.slot, sent.generation) == (slot, generation)]
        return own or self._number_in(slot)

    def _number_in(self, slot: int) -> list[int]:
        payload, at = self.segment.view("payload"), slot * self.segment.shape.slot_bytes
        head = Header._make(HEADER.unpack_from(payload, at))
        if head.kind != CALL or head.block:
            return []
        number, _ = msgspec.msgpack.decode(payload[at + HEADER_BYTES : at + HEADER_BYTES + head.length])
        return [number]
