"""rq: enqueue → job → result. Its worker forks a process for each job: the default, and what people run."""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from perf.peers import Peer, Session
from perf.peers.brokers import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def open_(workers: int) -> Iterator[Session]:
    command = ["rq.cli", "worker-pool", "--num-workers", str(workers), "--logging-level", "ERROR", "perf"]
    with redis_server.running() as url, redis_server.workers([*command, "--url", url]):
        import redis
        from rq import Queue

        connection = redis.Redis.from_url(url)
        queue = Queue("perf", connection=connection)

        def read(job: Any) -> Any:
            answer = job.latest_result(timeout=30)
            if answer is None or answer.type != answer.Type.SUCCESSFUL:
                raise RuntimeError(f"rq job {job.id} did not succeed: {answer and answer.exc_string}")
            return answer.return_value

        yield Session(bind=lambda function: partial(queue.enqueue, function), read=read)
        connection.close()


PEER = Peer("rq", "enqueue", open_, module="rq", command=redis_server.COMMAND, jobs=200)
