"""Producers, forked by a nursery that has everything imported, killed and replaced on order."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import Any

_RESULT_S = 60.0
_OUTSTANDING = 150
_BATCH = 40


def nursery(channel: socket.socket, folder: Path, namespace: str, count: int, seed: int) -> None:
    """Serve orders: `K` kill one at random and fork the next, `Q` let all finish and leave."""
    chance = random.Random(seed)
    alive: dict[int, int] = {}
    born = failed = 0

    def bear() -> None:
        nonlocal born
        born += 1
        pid = os.fork()
        if pid == 0:
            channel.close()
            os._exit(produce(folder, namespace, born, seed))
        alive[pid] = born

    def reap() -> None:
        nonlocal failed
        while alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            del alive[pid]
            failed += status != 0

    for _ in range(count):
        bear()
    while True:
        order = channel.recv(1) if select.select([channel], [], [], 0.05)[0] else b""
        reap()
        if order == b"K":
            victim = chance.choice(list(alive)) if alive else 0
            if victim:
                os.kill(victim, signal.SIGKILL)  # our own, unreaped child
                os.waitpid(victim, 0)
                del alive[victim]
            bear()
            channel.send(b"k" if victim else b"-")
        elif order == b"Q":
            break
    for pid in alive:
        os.kill(pid, signal.SIGTERM)
    for pid in list(alive):
        failed += os.waitpid(pid, 0)[1] != 0
    channel.send(f"{born} {failed}".encode())


def produce(folder: Path, namespace: str, number: int, seed: int) -> int:
    """Submit and read until told to finish; 0 when every result was right."""
    is_over = False

    def finish(_signal: int, _frame: object) -> None:
        nonlocal is_over
        is_over = True

    signal.signal(signal.SIGTERM, finish)
    try:
        load = _Load(folder, namespace, number, random.Random(seed * 1_000_003 + number))
        while not is_over:
            load.submit_some()
            load.read_some(_OUTSTANDING)
        load.read_some(0)
        load.client.close()
    except BaseException:
        with (folder / "errors").open("a") as errors:
            errors.write(f"producer {number}:\n{traceback.format_exc()}\n")
        return 1
    return 0


class _Load:
    def __init__(self, folder: Path, namespace: str, number: int, chance: random.Random) -> None:
        from shmq.client.client import Client
        from tests.crash.chaos.records import Book

        self.client = Client(namespace)
        self._book, self._number, self._chance = Book(folder, "producer"), number, chance
        self._sequence = 0
        self._open: list[tuple[int, Any, bytes]] = []

    def submit_some(self) -> None:
        """A burst of mixed jobs."""
        from tests.crash.chaos.records import ACCEPTED, payload

        for _ in range(self._chance.randrange(_BATCH)):
            self._sequence += 1
            task, data, is_read = self._next(payload(self._number, self._sequence))
            job = self.client.submit_task(task, (self._number, self._sequence, data), block=_RESULT_S)
            self._book.write(ACCEPTED, self._number, self._sequence)
            if is_read:
                self._open.append((self._sequence, job, bytes(data)))
            if self._chance.random() < 0.02:
                self._cancel(self._sequence, job)

    def _next(self, data: bytes) -> tuple[Any, Any, bool]:
        import numpy as np

        from tests.crash.chaos import tasks

        kind, priority = self._chance.random(), self._chance.randrange(1, 6)
        if kind < 0.5:
            return tasks.quick.options(priority=priority), data, True
        if kind < 0.6:
            return tasks.quick.options(forget=True), data, False
        if kind < 0.7:
            return tasks.quick.options(delay=self._chance.random() * 0.05), data, True
        if kind < 0.8:
            return tasks.napping, data, True
        if kind < 0.85:
            return tasks.stumbling, data, True
        if kind < 0.95:
            return tasks.echoing, data, True
        return tasks.summing, np.full(1000, self._sequence, np.int64), True

    def _cancel(self, sequence: int, job: Any) -> None:
        from tests.crash.chaos.records import ASKED, CANCELLED

        self._book.write(ASKED, self._number, sequence)
        if job.cancel():
            self._book.write(CANCELLED, self._number, sequence)

    def read_some(self, keep: int) -> None:
        """Read results, oldest first, until `keep` are open; each must be what its job computes."""
        from shmq.errors import JobCancelled, WorkerLost
        from tests.crash.chaos.records import LOST, checksum

        while len(self._open) > keep:
            sequence, job, data = self._open.pop(0)
            try:
                value = job.result(_RESULT_S)
            except JobCancelled:
                continue
            except WorkerLost:
                self._book.write(LOST, self._number, sequence)
                continue
            if value not in (data, checksum(data)):
                raise AssertionError(f"job {self._number}:{sequence} answers {value!r:.200}")
        if not self._open and not keep:
            time.sleep(0)
