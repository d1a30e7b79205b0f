"""What is different between two configurations, as keys of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from shmq.config.load import key_path
from shmq.config.model import Config


def differing_keys(before: Config, after: Config) -> list[str]:
    """Keys whose value differs, as `groups.network.rate_per_s`; of a table that only one has, its name."""
    return sorted(_differing("", msgspec.to_builtins(before), msgspec.to_builtins(after)))


def _differing(where: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield where
        return
    for key in before.keys() | after.keys():
        name = key_path(where, key)
        if key in before and key in after:
            yield from _differing(name, before[key], after[key])
        else:
            yield name
