"""A configuration as TOML: every key with the value in force, readable and loadable again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from shmq.config.describe import rows
from shmq.config.model import Config

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def as_toml(config: Config) -> str:
    """TOML text that loads to the same configuration. A key that is not set is left out."""
    order = {row.key: i for i, row in enumerate(rows())}
    return "\n".join(_table(msgspec.to_builtins(config), "", "", order)).strip() + "\n"


def _table(values: dict[str, Any], path: str, kind: str, order: dict[str, int]) -> Iterator[str]:
    """Lines of one table: plain keys first, as TOML demands.

    Args:
        path: of the table, such as "groups.network".
        kind: the same as the key of `order` has it: "groups.NAME.".
        order: place of each key in the documentation.
    """
    for key, value in sorted(values.items(), key=lambda item: order.get(kind + item[0], 0)):
        if key == "escalate_to" and value is None:
            yield f'{key} = ""'  # leaving it out would mean the default
        elif value is not None and not _is_nested(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in values.items():
        inner = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, dict):
            has_names = all(isinstance(item, dict) for item in value.values())  # a table of tables
            if not value or not has_names:
                yield f"\n[{inner}]"
            yield from _table(value, inner, f"{kind}NAME." if kind in {"groups.", "limits."} else f"{key}.", order)
        elif _is_nested(value):
            for item in value:
                yield f"\n[[{inner}]]"
                yield from _table(item, inner, f"{key}[].", order)


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value))


def _key(key: str) -> str:
    return key if _BARE.match(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, str):  # a JSON string is a TOML string, but for DEL
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return ("true" if value else "false") if isinstance(value, bool) else repr(value)
