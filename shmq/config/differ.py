"""What is different between two configurations, as keys of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shmq.config.model import Config, Table


def differing_keys(before: Config, after: Config) -> list[str]:
    """Keys whose value differs, as `groups.network.rate_per_s`; of a table that only one has, its name."""
    return sorted(_differing("", before, after))


def _differing(where: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    left, right = _keys(before), _keys(after)
    if left is None or right is None:
        yield where
        return
    for key in left.keys() | right.keys():
        name = f"{where}.{key}" if where else key
        if key in left and key in right:
            yield from _differing(name, left[key], right[key])
        else:
            yield name


def _keys(value: Any) -> dict[str, Any] | None:
    """Of a table; None for a plain value."""
    if isinstance(value, Table):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return value if isinstance(value, dict) else None
