"""Values as text: arguments from lines and the command line, results as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Malformed(ValueError):
    """A line that holds no arguments, with the reason."""


def text_argument(line: bytes) -> Arguments:
    """The whole line is the one argument; what is no UTF-8, as file names may be, becomes what `os.fsdecode` makes."""
    return (line.decode(errors="surrogateescape"),), {}


def words_as(words: list[tuple[str, str]]) -> Callable[[tuple[Any, ...], dict[str, Any]], Arguments]:
    """Turns plain words into the numbers and truth values that a task's parameters want (`TaskInfo.words`)."""
    by_name = dict(words)

    def convert(args: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
        known = [*words, *[("", "")] * (len(args) - len(words))]
        return (
            tuple(_from_word(text, *parameter) for text, parameter in zip(args, known, strict=False)),
            {name: _from_word(text, name, by_name.get(name, "")) for name, text in named.items()},
        )

    return convert


def _from_word(text: str, name: str, kind: str) -> Any:
    try:
        if kind == "bool":
            return _TRUTH[text.strip().lower()]
        return _NUMBERS[kind](text) if kind else text
    except (ValueError, KeyError):
        raise Malformed(f"argument {name!r} must be {_CALLED[kind]}, got {text!r}") from None


_NUMBERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float}
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_CALLED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def json_arguments(line: bytes) -> Arguments:
    """A JSON array is the positional arguments, an object those by name, a scalar the only argument."""
    value = json_value(line)
    if isinstance(value, list):
        return tuple(value), {}
    return ((), value) if isinstance(value, dict) else ((value,), {})


def json_value(text: bytes | str) -> Any:
    """The value of a JSON text. Raises Malformed."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None


def _plain(value: Any) -> Any:
    """What msgspec's JSON does not know: arrays and numpy scalars by value, complex numbers as pairs."""
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, msgspec.msgpack.Ext):  # an array in a dead letter: its bytes are shmq's own format
        return f"<array of {len(memoryview(value.data))} bytes>"
    as_list = getattr(value, "tolist", None)
    if as_list is not None:
        return as_list()
    raise NotImplementedError(f"a {type(value).__qualname__} has no JSON form")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def to_json(value: Any) -> bytes:
    """JSON of any result: bytes become base64, arrays nested lists, NaN and infinities null, names of files that
    are no UTF-8 what `json.dumps` makes of them.

    Raises:
        TypeError, NotImplementedError, ValueError, RecursionError: the value has no JSON form.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
        return json.dumps(plain, separators=(",", ":")).encode()
