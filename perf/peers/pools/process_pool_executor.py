"""concurrent.futures.ProcessPoolExecutor: submit → Future → result."""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING

from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


def of_executor(executor: Executor) -> Session:
    """Any executor of the standard interface as a session."""
    return Session(
        bind=lambda function: partial(executor.submit, function),
        read=methodcaller("result"),
        map=lambda function, items: executor.map(function, items, chunksize=50),
    )


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    with ProcessPoolExecutor(workers) as executor:
        yield of_executor(executor)


PEER = Peer("ProcessPoolExecutor", "submit", open_, map_verb="map(chunksize=50)", jobs=50_000)
