"""What a task's function takes and returns: checks at submit, typed decoding in the worker.

Arguments travel as an array of positional values; keywords are turned into positions where the
signature allows, else the message is [args, kwargs] (VARIADIC).
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

import msgspec

from shmq.errors import BadArguments
from shmq.wire.header import VARIADIC

_YIELDING = (
    abc.Iterator, abc.Iterable, abc.Generator, abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator,
)  # fmt: skip
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature:
    """The callable's parameters, with the annotations resolved as far as possible."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self._signature = _unquoted(inspect.signature(function))
        parameters = list(self._signature.parameters.values())
        self.positional = [p for p in parameters if p.kind in _POSITIONAL]
        self.least = sum(1 for p in self.positional if p.default is p.empty)
        self.has_var_positional = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.most = VARIADIC - 1 if self.has_var_positional else len(self.positional)
        needs_keywords = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        self.quick_least = VARIADIC if needs_keywords else self.least
        self._hints = _hints(function)
        self.returns = self._hints.get("return", Any)
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.is_async_generator = inspect.isasyncgenfunction(function)
        self.is_generator = self.is_async_generator or inspect.isgeneratorfunction(function)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with keywords made positional where possible.

        Raises:
            BadArguments: they do not fit, naming the task and its signature.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(
                f"{self.name}{self._signature}: {error}.\nCheck the call against the signature."
            ) from None
        if len(bound.args) > VARIADIC - 1:
            raise BadArguments(f"{self.name}: {len(bound.args)} positional arguments; at most {VARIADIC - 1} travel")
        return bound.args, bound.kwargs

    def argument_types(self, count: int) -> Any:
        """The type of a message with `count` positional arguments; Any where annotations say nothing."""
        kinds = [self._hints.get(p.name, Any) for p in self.positional[:count]]
        if count > len(kinds):
            kinds += [Any] * (count - len(kinds))
        kinds = [_decodable(kind) for kind in kinds]
        if all(kind is Any for kind in kinds):
            return list[Any]
        return tuple[tuple(kinds)] if kinds else list[Any]  # type: ignore[misc]

    def keyword_types(self) -> dict[str, Any]:
        """Types of parameters by name."""
        return {name: _decodable(kind) for name, kind in self._hints.items() if name != "return"}

    def words(self) -> list[tuple[str, str]]:
        """(name, "int", "float", "bool" or "") of each named parameter, positional ones first."""
        keyword_only = [p for p in self._signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        return [(p.name, _word_kind(self._hints.get(p.name))) for p in self.positional + keyword_only]

    def result_type(self) -> Any:
        """The type results are decoded to."""
        if self.is_generator:
            part = self.part_type()
            return Any if part is Any else list[part]  # type: ignore[valid-type]
        return _decodable(self.returns)

    def part_type(self) -> Any:
        """The type that single parts of a generator, or else the result, are decoded to."""
        if not self.is_generator:
            return self.result_type()
        kinds = typing.get_args(self.returns) if typing.get_origin(self.returns) in _YIELDING else ()
        return _decodable(kinds[0]) if kinds else Any

    def __str__(self) -> str:
        return str(self._signature)


def _word_kind(kind: Any) -> str:
    """What a plain word stands for where a value of that type, or None, is expected."""
    left = [part for part in typing.get_args(kind) if part is not type(None)] if _is_union(kind) else [kind]
    return left[0].__name__ if len(left) == 1 and left[0] in {int, float, bool} else ""


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in {typing.Union, types.UnionType}


class _Bare(str):
    """An annotation that is kept as text: shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _unquoted(signature: inspect.Signature) -> inspect.Signature:
    def bare(annotation: Any) -> Any:
        return _Bare(annotation) if isinstance(annotation, str) else annotation

    return signature.replace(
        parameters=[p.replace(annotation=bare(p.annotation)) for p in signature.parameters.values()],
        return_annotation=bare(signature.return_annotation),
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Resolved annotations; none when they name what cannot be imported (TYPE_CHECKING only)."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - evaluating annotations runs user expressions
        return {}


def _decodable(kind: Any) -> Any:
    """The annotation if msgspec can decode to it, else Any (the value then stays plain)."""
    if kind is Any or kind is None or kind is type(None) or kind is inspect.Parameter.empty:
        return Any
    try:
        msgspec.msgpack.Decoder(kind, dec_hook=lambda _kind, value: value)
    except (TypeError, ValueError, NameError):
        return Any
    return kind
