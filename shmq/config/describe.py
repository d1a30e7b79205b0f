"""The configuration in words: what a key expects (error messages) and the table of all keys (README).

`python -m shmq.config.describe` prints the tables; README holds them between two markers, a test compares.
"""

from __future__ import annotations

import reprlib
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from shmq.config.model import Config, Table

BEGIN = "<!-- config: begin -->"
END = "<!-- config: end -->"


@dataclass(frozen=True)
class Row:
    """One key: `key` as a path such as `groups.NAME.max_workers`, the rest as README prints it."""

    key: str
    expected: str
    default: str
    meaning: str


def rows() -> list[Row]:
    """Every key of the configuration in the order of the model."""
    return _rows_of(Config, "")


def markdown() -> str:
    """The tables for README: one per TOML table, markers included."""
    parts = [BEGIN]
    section = None
    for row in rows():
        table, _, key = row.key.rpartition(".")
        if table != section:
            section = table
            parts.append(f"\n{_heading(table)}\n\n| key | expected | default | meaning |\n|---|---|---|---|")
        parts.append(f"| `{key}` | {row.expected} | {row.default} | {row.meaning} |")
    return "\n".join([*parts, "", END])


def in_words(annotation: Any) -> str:
    """What a value looks like: 'an integer from 1 to 256'. None goes unnamed: its key is left out."""
    bounds, kind = _constraints(annotation), type_of(annotation)
    if "is" in bounds:
        return str(bounds["is"])
    if get_origin(kind) in {Union, types.UnionType}:
        return " or ".join(in_words(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        *first, last = (f'"{choice}"' for choice in get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) is tuple:
        return f"a list, each item {in_words(get_args(kind)[0])}"
    if kind in {int, float}:
        return ("an integer" if kind is int else "a number") + _range(bounds)
    return {str: "a string that is not empty", bool: "true or false"}.get(kind, "a table")


def value_in_words(value: object) -> str:
    """A value from the file, shortened, the way TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return reprlib.repr(value)


def type_of(annotation: Any) -> Any:
    """The annotation without its constraints and meaning."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _constraints(annotation: Any) -> dict[str, Any]:
    """Bounds, description and words of all `Meta` of an annotation; the outer one wins."""
    found: dict[str, Any] = {}
    while get_origin(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        for meta in metas:
            names = ("ge", "gt", "le", "lt", "multiple_of", "description")
            given = {name: value for name in names if (value := getattr(meta, name)) is not None}
            found = given | (meta.extra or {}) | found
    return found


def _range(bounds: dict[str, Any]) -> str:
    low, high = bounds.get("ge"), bounds.get("le")
    if low is not None and high is not None:
        words = f" from {_number(low)} to {_number(high)}"
    else:
        signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        words = " " + ", ".join(f"{sign} {_number(bounds[name])}" for name, sign in signs.items() if name in bounds)
    return words.rstrip() + (f", a multiple of {bounds['multiple_of']}" if "multiple_of" in bounds else "")


def _number(number: float) -> str:
    """As TOML may write it: long ones with underscores, whole ones without a point."""
    whole = int(number) if number == int(number) else number
    return f"{whole:_}" if whole >= 100_000 else str(whole)


def _rows_of(kind: type[Table], where: str) -> list[Row]:
    found: list[Row] = []
    nested: list[Row] = []  # tables follow the plain keys, as TOML demands
    inherited = getattr(kind.__mro__[1], "__struct_fields__", ())
    for field in sorted(msgspec.structs.fields(kind), key=lambda field: field.name in inherited):
        inner, key = type_of(field.type), where + field.name
        if isinstance(inner, type) and issubclass(inner, Table):
            nested += _rows_of(inner, f"{key}.")
        elif get_origin(inner) is dict:
            nested += _rows_of(type_of(get_args(inner)[1]), f"{key}.NAME.")
        elif get_origin(inner) is tuple and issubclass(type_of(get_args(inner)[0]), Table):
            nested += _rows_of(get_args(inner)[0], f"{key}[].")
        else:
            meaning = str(_constraints(field.type).get("description", ""))
            found.append(Row(key, in_words(field.type), _default(field), meaning))
    return found + nested


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, tuple):
        return "`[]`"
    if isinstance(field.default, int | float):
        return f"`{_number(field.default)}`"
    return f"`{value_in_words(field.default)}`"


def _heading(table: str) -> str:
    if not table:
        return "At the top of the file:"
    if table.endswith("[]"):
        return f"`[[{table[:-2]}]]` (any number of them)"
    if table.startswith("limits"):
        return '`[limits."TASK"]`'
    return f"`[{table}]`"


if __name__ == "__main__":
    print(markdown())  # noqa: T201 - README's tables
