"""Producers, forked by a nursery that has everything imported, killed and replaced on order."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import traceback
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

_RESULT_S = 60.0
_OUTSTANDING = 300
_BATCH = 40
_CANCELLED_SHARE = 0.01


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


def mix() -> list[tuple[Any, bool]]:
    """(task with options, is its result read) for each hundredth of the load."""
    from tests.crash.chaos import tasks

    def some(task: Any, count: int, *, is_read: bool = True, **options: Any) -> list[tuple[Any, bool]]:
        return [(task.options(block=_RESULT_S, **options), is_read)] * count

    return [
        *(one for priority in range(1, 6) for one in some(tasks.quick, 11, priority=priority)),
        *some(tasks.quick, 10, is_read=False, forget=True),
        *(one for delay in range(1, 9) for one in some(tasks.quick, 1, delay=0.006 * delay)),
        *some(tasks.napping, 4),
        *some(tasks.stumbling, 3),
        *some(tasks.echoing, 16),
        *some(tasks.summing, 4),
    ]


class _Load:
    def __init__(self, folder: Path, namespace: str, number: int, chance: random.Random) -> None:
        import numpy as np

        from shmq.client.client import Client
        from tests.crash.chaos import tasks
        from tests.crash.chaos.records import Book

        self.client = Client(namespace)
        self._book, self._number, self._chance = Book(folder, "producer"), number, chance
        self._mix, self._summing, self._array = mix(), tasks.summing.name, partial(np.full, 1000, dtype=np.int64)
        self._sequence = 0
        self._open: deque[tuple[int, Any, bytes]] = deque()

    def submit_some(self) -> None:
        """A burst of mixed jobs."""
        from tests.crash.chaos.records import ACCEPTED, payload

        for _ in range(self._chance.randrange(_BATCH)):
            self._sequence += 1
            task, is_read = self._chance.choice(self._mix)
            data: Any = payload(self._number, self._sequence)
            if task.name == self._summing:
                data = self._array(self._sequence)
            job = self.client.submit_task(task, (self._number, self._sequence, data))
            self._book.write(ACCEPTED, self._number, self._sequence)
            if is_read:
                self._open.append((self._sequence, job, bytes(data)))
            if self._chance.random() < _CANCELLED_SHARE:
                self._cancel(self._sequence, job)

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
            sequence, job, data = self._open.popleft()
            try:
                value = job.result(_RESULT_S)
            except JobCancelled:
                continue
            except WorkerLost:
                self._book.write(LOST, self._number, sequence)
                continue
            if value not in (data, checksum(data)):
                raise AssertionError(f"job {self._number}:{sequence} answers {value!r:.200}")
