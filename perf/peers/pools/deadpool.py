"""deadpool: an executor that can kill a running call and recycles workers by memory."""

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
    from deadpool import Deadpool

    with Deadpool(max_workers=workers) as executor:
        session = of_executor(executor)
        yield Session(session.bind, session.read)


PEER = Peer("deadpool", "submit", open_, module="deadpool", distribution="deadpool-executor", jobs=20_000)
