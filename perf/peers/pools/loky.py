"""loky: an executor whose pool survives the death of a worker. Functions travel by cloudpickle."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from perf.peers import Peer, Session
from perf.peers.pools.process_pool_executor import of_executor

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    from loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(max_workers=workers)
    try:
        yield of_executor(executor)
    finally:
        executor.shutdown(wait=True, kill_workers=True)


PEER = Peer("loky", "submit", open_, module="loky", map_verb="map(chunksize=50)", jobs=50_000)
