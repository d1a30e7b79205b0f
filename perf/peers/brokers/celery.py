"""celery: delay → AsyncResult → get; prefork workers, results in Redis. Its worker imports `app` here."""

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
def make_app(url: str) -> Any:
    import celery

    app = celery.Celery("perf", broker=url, backend=url)
    app.conf.broker_connection_retry_on_startup = True
    for function in (functions.echo, functions.spin):
        app.task(function, name=function.__name__)
    return app


def __getattr__(name: str) -> Any:
    """The application exists on demand: importing this module must not need celery."""
    if name in {"app", "celery"}:
        return make_app(redis_server.url())
    raise AttributeError(name)


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    command = [
        "celery",
        "-A",
        f"{__name__}:app",
        "worker",
        "-c",
        str(workers),
        "--loglevel=ERROR",
        "--without-gossip",
    ]
    with redis_server.running() as url, redis_server.workers([*command, "--without-mingle"]):
        app = make_app(url)
        yield Session(
            bind=lambda function: app.tasks[function.__name__].delay,
            read=methodcaller("get", timeout=30.0),
        )
        app.close()


PEER = Peer("celery", "delay", open_, module="celery", command=redis_server.COMMAND, jobs=2_000)
