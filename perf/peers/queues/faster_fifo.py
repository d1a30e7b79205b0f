"""faster-fifo: a C++ queue in shared memory behind one lock. Our loop takes many at once, answers one by one.

producer ──Queue──▶ worker × n ──Queue──▶ producer        items pickled, as by default
"""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from queue import Empty
from typing import TYPE_CHECKING, Any

from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUEUE_BYTES = 32 << 20


def _work(jobs: Any, results: Any) -> None:
    while True:
        try:
            taken = jobs.get_many(max_messages_to_get=50, timeout=10.0)
        except Empty:
            continue
        for number, function, argument in taken:
            results.put((number, function(argument)))


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    from faster_fifo import Queue

    context = get_context("fork")
    jobs, results = Queue(QUEUE_BYTES), Queue(QUEUE_BYTES)
    processes = [context.Process(target=_work, args=(jobs, results), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    arrived: dict[int, Any] = {}
    number = 0

    def submit(function: Callable[..., Any], argument: Any) -> int:
        nonlocal number
        number += 1
        jobs.put((number, function, argument))
        return number

    def read(handle: int) -> Any:
        while handle not in arrived:
            arrived.update(results.get_many(max_messages_to_get=1000, timeout=10.0))
        return arrived.pop(handle)

    try:
        yield Session(lambda function: partial(submit, function), read)
    finally:
        for process in processes:
            process.kill()
            process.join()


PEER = Peer("faster-fifo", "put", open_, module="faster_fifo", distribution="faster-fifo", jobs=200_000)
