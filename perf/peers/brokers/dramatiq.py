"""dramatiq: send → message → get_result; one thread per worker process, as many processes as workers."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from perf import functions
from perf.peers import Peer, Session
from perf.peers.brokers import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def make_broker(url: str) -> Any:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends.redis import RedisBackend

    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    for function in (functions.echo, functions.spin):
        dramatiq.actor(function, broker=broker, store_results=True)
    return broker


def __getattr__(name: str) -> Any:
    """The broker exists on demand: importing this module must not need dramatiq."""
    if name == "broker":
        return make_broker(redis_server.url())
    raise AttributeError(name)


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    command = ["dramatiq", f"{__name__}:broker", "--processes", str(workers), "--threads", "1"]
    with redis_server.running() as url, redis_server.workers(command):
        broker = make_broker(url)
        yield Session(
            bind=lambda function: broker.get_actor(function.__name__).send,
            read=methodcaller("get_result", backend=_backend(broker), block=True, timeout=30_000),
        )
        broker.close()


def _backend(broker: Any) -> Any:
    from dramatiq.results import Results

    return next(middleware.backend for middleware in broker.middleware if isinstance(middleware, Results))


PEER = Peer("dramatiq", "send", open_, module="dramatiq", command=redis_server.COMMAND, jobs=2_000)
