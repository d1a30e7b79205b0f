"""A configuration as TOML: every key with the value in force, readable and loadable again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from shmq.config.model import Config

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def as_toml(config: Config) -> str:
    """TOML text that loads to the same configuration. A key that is not set is left out."""
    return "\n".join(_table(msgspec.to_builtins(config), "")).strip() + "\n"


def _table(values: dict[str, Any], path: str) -> Iterator[str]:
    """Lines of one table: plain keys first, as TOML demands."""
    for key, value in values.items():
        if key == "escalate_to" and value is None:
            yield f'{key} = ""'  # leaving it out would mean the default
        elif value is not None and not _is_nested(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in values.items():
        inner = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, dict):
            if not value or any(not isinstance(item, dict) for item in value.values()):
                yield f"\n[{inner}]"
            yield from _table(value, inner)
        elif _is_nested(value):
            for item in value:
                yield f"\n[[{inner}]]"
                yield from _table(item, inner)


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value)
    )


def _key(key: str) -> str:
    return key if _BARE.match(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, str):  # a JSON string is a TOML string, but for DEL
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return ("true" if value else "false") if isinstance(value, bool) else repr(value)
