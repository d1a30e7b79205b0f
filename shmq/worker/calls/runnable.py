"""A task as one worker runs it: its function, limits, and how messages become its arguments."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from shmq.clock import now_ns, to_ns
from shmq.errors import JobExpired, UnknownTask
from shmq.tasks.task import Task
from shmq.wire.codec import Decoder, accept
from shmq.wire.failure import Failure, describe
from shmq.wire.header import VARIADIC, Header
from shmq.worker.results import outcome
from shmq.worker.seat import Seat

Convert = Callable[[list[Any]], list[Any]]


def startable(runnable: Runnable | None, head: Header, seat: Seat, slot: int) -> Runnable:
    """The task of a job that is about to start.

    Raises:
        UnknownTask: this worker has none by its key. Outdated: nor could it. JobExpired: it comes too late.
    """
    if runnable is None:
        if seat.is_outdated:
            raise outcome.Outdated
        raise UnknownTask(
            f"{seat.name_in(slot)} (key {head.key:#018x}) is not registered in this worker.\n"
            "Was it renamed, or its module removed? `shmq tasks` lists what there is."
        )
    if head.expires_ns and now_ns() > head.expires_ns:
        raise JobExpired(f"{runnable.name} was not started before it expired")
    return runnable


class Runnable:
    """A task as this worker runs it: function, decoders by argument count, limits."""

    def __init__(self, task: Task[..., Any], decoder: Decoder, seat: Seat) -> None:
        self.task = task
        self.name = task.name
        self._decoder = decoder
        self.is_async = task.signature.is_coroutine
        self.is_async_generator = task.signature.is_async_generator
        self.is_generator = task.signature.is_generator
        self.call: Callable[..., Any] = task.function  # as a job
        self.generate: Callable[..., Generator[Any, None, Any]] = task.function  # if it is a generator: its parts
        self.coroutine: Callable[..., Any] = task.function  # of an async task, for an event loop
        self.call_whole: Callable[..., Any] = task.function  # as one call of a chunk: the parts as a list
        self.decoders: dict[int, Callable[[bytes], Any]] = {}
        limit = task.settings.timeout if task.settings.timeout is not None else seat.settings.timeout_s
        self.timeout_ns = to_ns(limit) if limit else 0
        retries = task.settings.retries
        self.long_share = 0.0  # of its last jobs, took longer than one may keep others; the newest count for most
        self.retries = retries if retries is not None else (seat.settings.retries or 0)

    def is_long(self) -> bool:
        """Did the last two of its jobs take long? One alone may just have had no core.

        Jobs that are not long are not told of: hence the share halves with each question.
        """
        share, self.long_share = self.long_share, self.long_share / 2
        return share > 0.6  # 1/2 + 1/4 of the one before

    def decoder(self, count: int) -> Callable[[bytes], Any]:
        """Decodes a message of `count` arguments. Raises BadArguments when the task takes others."""
        signature = self.task.signature
        if not signature.quick_least <= count <= signature.most:
            signature.bind((None,) * count, {})
        self.decoders[count] = self._decoder.typed(signature.argument_types(count)).decode
        return self.decoders[count]

    def arguments(self, data: bytes, nargs: int) -> tuple[Any, dict[str, Any]]:
        """(positional, keyword) arguments of a call, each as the task wants it."""
        if nargs == VARIADIC:
            return self._keywords(data)
        return (self.decoders.get(nargs) or self.decoder(nargs))(data), {}

    def calls(self, data: bytes, nargs: int) -> tuple[list[Any], Convert | None]:
        """A chunk's calls, and what must still convert each: calls of different length or one of a wrong type."""
        if nargs != VARIADIC:
            try:
                return self._chunk_decoder(nargs)(data), None
            except msgspec.ValidationError:
                pass
        return self._decoder.decode(data), self._converted

    def converted_calls(self, data: bytes, nargs: int) -> list[Any]:
        """A chunk's calls, each as the arguments the task wants; a wrong one fails the chunk."""
        calls, convert = self.calls(data, nargs)
        return calls if convert is None else [convert(args) for args in calls]

    def stream_calls(self, data: bytes, nargs: int) -> tuple[int, list[Any], Convert | None]:
        """Of a chunk of `stream`: bytes of results to keep, the calls, what must still convert each."""
        if nargs != VARIADIC:
            kind = self.task.signature.argument_types(nargs)
            decoder = self._decoder.typed(tuple[int, list[kind]])  # type: ignore[valid-type]
            try:
                most_kept, calls = decoder.decode(data)
            except msgspec.ValidationError:
                pass
            else:
                return most_kept, calls, None
        most_kept, calls = self._decoder.decode(data)
        return most_kept, calls, self._converted

    def answer(self, ends: list[Any], run_ns: int) -> tuple[int, list[Any], dict[int, Failure]]:
        """(run ns, values, {index: failure}): a chunk's answer, from each call's value or exception."""
        failures = {i: self.failure_of_call(end) for i, end in enumerate(ends) if isinstance(end, BaseException)}
        return run_ns, [end for end in ends if not isinstance(end, BaseException)], failures

    def failure_of_call(self, error: BaseException) -> Failure:
        """A failed call of a chunk, and how often it may be tried again as a job of its own."""
        may_retry = outcome.retry_due(error, 0, self.task.settings, self.retries) is not None
        failure = describe(outcome.as_job_error(error, self.name))
        return msgspec.structs.replace(failure, retries_left=self.retries) if may_retry else failure

    def _chunk_decoder(self, count: int) -> Callable[[bytes], Any]:
        """Decodes a chunk whose calls have `count` arguments each."""
        found = self.decoders.get(~count)
        if found is None:
            signature = self.task.signature
            if not signature.quick_least <= count <= signature.most:
                signature.bind((None,) * count, {})
            kind = signature.argument_types(count)
            found = self.decoders[~count] = self._decoder.typed(list[kind]).decode  # type: ignore[valid-type]
        return found

    def _keywords(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Decode [args, kwargs], each converted to its annotation."""
        args, kwargs = self._decoder.decode(data)
        signature = self.task.signature
        signature.bind(tuple(args), kwargs)
        kinds = signature.keyword_types()
        return self._positional(args), {name: self._convert(value, kinds, name) for name, value in kwargs.items()}

    def _converted(self, args: list[Any]) -> list[Any]:
        """Plain positional arguments converted to their annotations."""
        self.task.signature.bind(tuple(args), {})
        return self._positional(args)

    def _positional(self, args: list[Any]) -> list[Any]:
        signature = self.task.signature
        kinds, names = signature.keyword_types(), [p.name for p in signature.positional]
        return [self._convert(value, kinds, names[i] if i < len(names) else "") for i, value in enumerate(args)]

    @staticmethod
    def _convert(value: Any, kinds: dict[str, Any], name: str) -> Any:
        kind = kinds.get(name, Any)
        if kind is Any or (isinstance(kind, type) and isinstance(value, kind)):
            return value
        try:
            return msgspec.convert(value, kind, str_keys=False, dec_hook=accept)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(f"argument {name!r}: {error}") from None


def collecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A generator task as a call of a chunk of `map`: the list of its parts."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return list(function(*args, **kwargs))

    return call
