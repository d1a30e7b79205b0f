"""dask.distributed: one scheduler, worker processes of one thread each."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING

from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    with cluster, Client(cluster) as client:
        yield Session(
            # without pure=False equal arguments would be computed once
            bind=lambda function: partial(client.submit, function, pure=False),
            read=methodcaller("result"),
        )


PEER = Peer("dask", "submit", open_, module="distributed", distribution="'dask[distributed]'", jobs=5_000)
