"""pyzmq: sockets over unix domain paths, the usual way to build a queue by hand.

producer PUSH ──ipc──▶ PULL worker × n PUSH ──ipc──▶ PULL producer        items by msgspec
"""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perf import functions
from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _work(folder: str) -> None:
    import zmq

    context = zmq.Context()
    jobs, results = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    jobs.connect(f"ipc://{folder}/jobs")
    results.connect(f"ipc://{folder}/results")
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    while True:
        number, name, argument = decode(jobs.recv())
        results.send(encode((number, getattr(functions, name)(argument))))


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    import zmq

    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    with tempfile.TemporaryDirectory(prefix="perf-zmq-") as folder, zmq.Context() as context:
        jobs, results = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        jobs.bind(f"ipc://{Path(folder) / 'jobs'}")
        results.bind(f"ipc://{Path(folder) / 'results'}")
        processes = [get_context("spawn").Process(target=_work, args=(folder,), daemon=True) for _ in range(workers)]
        for process in processes:
            process.start()
        arrived: dict[int, Any] = {}
        number = 0

        def submit(function: Callable[..., Any], argument: Any) -> int:
            nonlocal number
            number += 1
            jobs.send(encode((number, function.__name__, argument)))
            return number

        def read(handle: int) -> Any:
            while handle not in arrived:
                done, result = decode(results.recv())
                arrived[done] = result
            return arrived.pop(handle)

        try:
            yield Session(lambda function: partial(submit, function), read)
        finally:
            for process in processes:
                process.kill()
                process.join()
            jobs.close(linger=0)
            results.close(linger=0)


PEER = Peer("pyzmq", "PUSH/PULL", open_, module="zmq", distribution="pyzmq", jobs=200_000)
