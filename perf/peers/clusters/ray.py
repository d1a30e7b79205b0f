"""ray: remote functions through a local cluster; arrays by its own object store."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from perf.peers import Peer, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    import ray

    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 << 20,
    )
    try:
        yield Session(lambda function: ray.remote(function).remote, ray.get)
    finally:
        ray.shutdown()


PEER = Peer("ray", "remote", open_, module="ray", jobs=10_000)
