"""Coroutines and async generators in a worker that runs one job at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any


class OwnLoop:
    """The worker's event loop, on which they run one after the other."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def plain(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """A coroutine function as a plain one."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._run(function(*args, **kwargs))

        return call

    def plain_generator(
        self, function: Callable[..., AsyncGenerator[Any, Any]]
    ) -> Callable[..., Generator[Any, None, Any]]:
        """An async generator function as a plain one, each step run to its end."""
        run = self._run

        def generate(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
            parts = function(*args, **kwargs)
            step: Awaitable[Any] = parts.__anext__()
            while True:
                try:
                    value = run(step)
                except StopAsyncIteration:
                    return
                try:
                    yield value
                except GeneratorExit:
                    run(parts.aclose())
                    raise
                except BaseException as error:
                    step = parts.athrow(error)
                else:
                    step = parts.__anext__()

        return generate

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        """The awaitable's end. What a signal handler raises meanwhile cancels it first."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(_awaited(awaitable))
        try:
            return self._loop.run_until_complete(task)
        except RuntimeError:
            if task.done():
                raise
            return self._loop.run_until_complete(task)  # this call, or one before it, has called loop.stop()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(task)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
