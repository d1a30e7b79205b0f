"""Values as text: arguments from lines and the command line, results as JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Malformed(ValueError):
    """A line that holds no arguments, with the reason."""


def text_argument(line: bytes) -> Arguments:
    """The whole line is the one argument."""
    try:
        return (line.decode(),), {}
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None


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


to_json: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode
"""JSON of any result: bytes become base64, arrays nested lists, NaN and infinities null.

Raises:
    TypeError, NotImplementedError, ValueError, RecursionError: the value has no JSON form.
"""
