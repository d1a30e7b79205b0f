"""multiprocessing.Pool: apply_async → AsyncResult → get, and map."""

from __future__ import annotations

from contextlib import contextmanager
from multiprocessing import Pool
from operator import methodcaller
from typing import TYPE_CHECKING

from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    with Pool(workers) as pool:
        yield Session(
            bind=lambda function: lambda argument: pool.apply_async(function, (argument,)),
            read=methodcaller("get"),
            map=lambda function, items: pool.map(function, items, chunksize=50),
        )


PEER = Peer("Pool", "apply_async", open_, map_verb="map(chunksize=50)", jobs=200_000)
