"""mpire: a faster pool with its own chunking. apply_async → AsyncResult → get, and map."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from contextlib import contextmanager
from operator import methodcaller
from typing import TYPE_CHECKING

from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=workers) as pool:
        yield Session(
            bind=lambda function: lambda argument: pool.apply_async(function, args=(argument,)),
            read=methodcaller("get"),
            map=lambda function, items: pool.map(function, items, chunk_size=50),
        )


PEER = Peer("mpire", "apply_async", open_, module="mpire", map_verb="map(chunk_size=50)", jobs=50_000)
