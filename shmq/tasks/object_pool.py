"""Expensive objects of a task's module (connections, parsers, buffers), made once per worker and used again."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
POOLS: weakref.WeakSet[ObjectPool[Any]] = weakref.WeakSet()  # of this process, for `shmq.memory()`


class ObjectPool(Generic[T]):
    """Keeps up to `max_size` objects that nobody uses at the moment; the one returned last is lent first.

        connections = shmq.ObjectPool(connect, reset=rollback, max_size=4)

        @shmq.task
        def count(table: str) -> int:
            with connections.lend() as connection:
                return connection.count(table)

    Lending never waits: when all are out, another is made, and what is returned above `max_size` is dropped.
    An object whose borrower raised, or whose `reset` raised, is dropped, since nobody knows its state.

    Concurrency: threads and coroutines may lend at the same time; none gets an object that another has. A forked
    process begins empty: it must not talk through its parent's connections.
    """

    def __init__(self, factory: Callable[[], T], reset: Callable[[T], object] | None = None, max_size: int = 8) -> None:
        """Nothing is made before it is lent.

        Args:
            factory: makes one.
            reset: called with each object that is returned, before it is kept.
            max_size: how many are kept.

        Raises:
            TypeError: `factory` or `reset` cannot be called. ValueError: `max_size` is below 1.
        """
        if not all(map(callable, (factory, factory if reset is None else reset))):
            raise TypeError(
                f"factory = {factory!r} and reset = {reset!r} must be functions; pass connect, not connect()"
            )
        if max_size < 1:
            raise ValueError(f"max_size must be 1 or more, got {max_size}; without a pool call the factory yourself")
        self._factory = factory
        self._reset = reset
        self.name = str(getattr(factory, "__qualname__", factory))
        self.max_size = max_size
        self._idle: deque[T] = deque()
        self._pid = os.getpid()
        POOLS.add(self)

    def __len__(self) -> int:
        """How many are kept and not lent."""
        return len(self._own())

    @contextmanager
    def lend(self) -> Iterator[T]:
        """One object, for the block; kept again when the block ends well."""
        idle = self._own()
        try:
            item = idle.pop()
        except IndexError:
            item = self._factory()
        yield item
        if self._reset is not None:
            self._reset(item)
        if idle is self._idle and len(idle) < self.max_size:
            idle.append(item)

    def clear(self) -> None:
        """Drop all that are kept; lent ones come back and are kept."""
        self._own().clear()

    def _own(self) -> deque[T]:
        if self._pid != os.getpid():
            self._pid, self._idle = os.getpid(), deque()
        return self._idle
