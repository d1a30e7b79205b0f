"""pebble: schedule → future; a time limit per call, the worker is killed and replaced."""

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
    from pebble import ProcessPool

    pool = ProcessPool(max_workers=workers)
    try:
        yield Session(
            bind=lambda function: lambda argument: pool.schedule(function, args=(argument,)),
            read=methodcaller("result"),
            map=lambda function, items: pool.map(function, items, chunksize=50).result(),
        )
    finally:
        pool.stop()
        pool.join()


PEER = Peer("pebble", "schedule", open_, module="pebble", map_verb="map(chunksize=50)", jobs=20_000)
