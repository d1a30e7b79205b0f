"""The default client of this process: made on first use from SHMQ_NAMESPACE."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shmq.client.client import Client
from shmq.client.handle import Job
from shmq.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

_lock = threading.Lock()
_client: Client | None = None


def client() -> Client:
    """The default client; connects on first use.

    Raises:
        NotRunning: no supervisor serves the namespace.
    """
    global _client
    found = _client
    if found is None:
        with _lock:
            if _client is None:
                _client = Client(os.environ.get("SHMQ_NAMESPACE") or "default", is_default=True)
            found = _client
    return found


def connect(namespace: str | None = None) -> Client:
    """A client of its own, with its own row.

    Args:
        namespace: None means SHMQ_NAMESPACE, else "default".
    """
    return Client(namespace or os.environ.get("SHMQ_NAMESPACE") or "default")


def submit(task: Task[..., Any] | str, *args: Any, **kwargs: Any) -> Job[Any]:
    """Queue one job with the default client: of a task object, or of a task named "module.function"."""
    return client().submit(task, *args, **kwargs)


def map(  # noqa: A001 - the public name is fixed
    task: Task[..., Any] | str, *iterables: Iterable[Any], chunk_size: int | str = "auto"
) -> Iterator[Any]:
    """Results of `task` over the items, in order; input is consumed lazily, memory stays bounded."""
    return client().map(task, *iterables, chunk_size=chunk_size)


def stream(
    task: Task[..., Any] | str, items: Iterable[Any], chunk_size: int = 1000, memory_limit: int | str = "100 MB"
) -> Iterator[Any]:
    """Results of `task` over the items, in order, whatever the length of the input and the size of the results.

    Items are taken when there is room for them, results are made when there is room for those: nothing piles up while
    you do not read. A generator task gives its parts, item after item. The first failure is raised in its place;
    calls with `retries` are tried again first. Closing the iterator cancels what is under way.

    Args:
        chunk_size: calls that go into one job at most. Small for slow tasks; large chunks are cut by bytes anyway.
        memory_limit: what may be under way, here and in shared memory: bytes, or text such as "100 MB" or "64 MiB".
            What one running call of the task needs itself comes on top.

    Raises:
        TooLarge: an item takes more than a quarter of the limit, or fits no block.
    """
    return client().stream(task, items, chunk_size, memory_limit)


def empty(shape: int | tuple[int, ...], dtype: Any = float) -> NDArray[Any]:
    """An uninitialized array in shared memory already: submitting it copies nothing."""
    return client().empty(shape, dtype)


def close() -> None:
    """Close the default client; the next use connects again."""
    global _client
    with _lock:
        found, _client = _client, None
    if found is not None:
        found.close()


def _reset_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_in_child)
atexit.register(close)
