"""shmq: a brokerless work queue for one host. Jobs travel through shared memory.

    @shmq.task(group="computation")
    def square(n: int) -> int: ...

    job = square.submit(7)
    job.result()

Nothing is imported before it is used: the supervisor must stay free of numpy and of user code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmq.client.client import Client as Client
    from shmq.client.default import close as close
    from shmq.client.default import connect as connect
    from shmq.client.default import empty as empty
    from shmq.client.default import map as map  # noqa: A004 - the public name is fixed
    from shmq.client.default import stream as stream
    from shmq.client.default import submit as submit
    from shmq.client.executor import Executor as Executor
    from shmq.client.handle import Job as Job
    from shmq.client.many.batching import optimize_batch_size as optimize_batch_size
    from shmq.errors import Reject as Reject
    from shmq.errors import Retry as Retry
    from shmq.errors import ShmqError as ShmqError
    from shmq.errors import TaskTimeout as TaskTimeout
    from shmq.memcheck.usage.look import memory as memory
    from shmq.tasks.current import cancelled as cancelled
    from shmq.tasks.current import current_job as current_job
    from shmq.tasks.object_pool import ObjectPool as ObjectPool
    from shmq.tasks.task import Task as Task
    from shmq.tasks.task import task as task

__version__ = "0.1.0"

_HOMES = {
    "Client": "shmq.client.client", "Executor": "shmq.client.executor", "Job": "shmq.client.handle",
    "ObjectPool": "shmq.tasks.object_pool",
    "close": "shmq.client.default", "connect": "shmq.client.default",
    "empty": "shmq.client.default", "map": "shmq.client.default", "stream": "shmq.client.default",
    "submit": "shmq.client.default",
    "optimize_batch_size": "shmq.client.many.batching", "memory": "shmq.memory",
    "Task": "shmq.tasks.task", "task": "shmq.tasks.task",
    "cancelled": "shmq.tasks.current", "current_job": "shmq.tasks.current",
    "Reject": "shmq.errors", "Retry": "shmq.errors", "ShmqError": "shmq.errors", "TaskTimeout": "shmq.errors",
}  # fmt: skip

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604 - one list of names, kept by a test


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        # a submodule such as shmq.client is found by the import system before this is asked
        raise AttributeError(f"module 'shmq' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
