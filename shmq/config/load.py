"""From TOML text to a `Config`, or to a list of everything that is wrong with it.

msgspec alone would stop at the first problem, so the walk over tables and keys is done here and msgspec
converts one value at a time. A bad value is reported and its default takes its place, so that the later
checks still find the rest.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from shmq.config.check import cross_problems, nearest
from shmq.config.describe import in_words, rows, type_of, value_in_words
from shmq.config.model import Config, Table, group_defaults
from shmq.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
BAD: Final = object()  # what takes the place of a value that a problem was reported for


def load(path: str | os.PathLike[str]) -> Config:
    """Read the file at `path`; raises `ConfigError` with every problem, each beginning with the path."""
    name = os.fspath(path)
    try:
        return parse(_read_own_file(name))
    except ConfigError as error:
        raise ConfigError([f"{name}: {problem}" for problem in error.problems]) from None


def parse(text: str) -> Config:
    """Read the configuration in `text`; raises `ConfigError` with every problem."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
        raise ConfigError(f"is not TOML: {error}. Strings need quotes, each table may appear once.") from None
    problems: list[str] = []
    config = _table(Config, _with_group_defaults(tables), "", problems)
    assert isinstance(config, Config)  # no key of Config is required
    problems += cross_problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def _read_own_file(name: str) -> str:
    """The text of a file that nobody else can have written: it names code that will run."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(_why_unopened(name, error)) from None
    try:
        if problem := _why_untrusted(name, os.fstat(fd)):
            raise ConfigError(problem)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"has more than {MAX_FILE_BYTES} bytes; that is no configuration. Check the path.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 at byte {error.start}. Save it as UTF-8 text.") from None


def _why_unopened(name: str, error: OSError) -> str:
    if Path(name).is_symlink():
        target = Path(name).readlink()
        return f"is a symbolic link to {target}, which others may turn elsewhere. Name the file itself."
    if isinstance(error, FileNotFoundError):
        return 'does not exist. One line is enough to begin: tasks = ["your.module"]'
    return f"cannot be opened: {error.strerror}. Check the path and its permissions."


def _why_untrusted(name: str, status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file. Name a TOML file."
    if status.st_uid != os.geteuid():
        return (
            f"belongs to uid {status.st_uid}, not to uid {os.geteuid()} who runs this; it names code to run. "
            f"Run as its owner, or copy it."
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return (
            f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o}); it names code to run. "
            f"Take that away: chmod go-w {name}"
        )
    return None


def _with_group_defaults(tables: dict[str, Any]) -> dict[str, Any]:
    """Fill in what depends on a group's name; `escalate_to = ""` means None, which TOML cannot say."""
    groups = tables.get("groups")
    if not isinstance(groups, dict):
        return tables
    filled = {name: group_defaults(name, groups) | group for name, group in groups.items() if isinstance(group, dict)}
    for group in filled.values():
        if group.get("escalate_to") == "":
            del group["escalate_to"]
    return tables | {"groups": groups | filled}


def _table(kind: type[Table], value: object, where: str, problems: list[str]) -> object:
    """One table as its struct, or BAD if it is no table or lacks a required key."""
    if not isinstance(value, dict):
        problems.append(f"expected {where} to be a table, got {value_in_words(value)}")
        return BAD
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    problems += [_unknown_key(key, where, fields.keys()) for key in value if key not in fields]
    given: dict[str, object] = {}
    for name, field in fields.items():
        at = key_path(where, name)
        if name in value:
            given[name] = _value(field.type, value[name], at, problems)
        elif field.required:
            given[name] = BAD
            problems.append(f"expected {at} to be {in_words(field.type)}, but it is missing")
    if any(given.get(name) is BAD for name, field in fields.items() if field.required):
        return BAD
    return kind(**{name: converted for name, converted in given.items() if converted is not BAD})


def _value(annotation: Any, value: object, where: str, problems: list[str]) -> object:
    """One value of any annotation that the model uses, or BAD; of lists and tables what is good in them."""
    kind = type_of(annotation)
    if isinstance(kind, type) and issubclass(kind, Table):
        return _table(kind, value, where, problems)
    if get_origin(kind) is tuple and isinstance(value, list):
        items = [_value(get_args(kind)[0], item, f"{where}[{i}]", problems) for i, item in enumerate(value)]
        return tuple(item for item in items if item is not BAD)
    if get_origin(kind) is dict and isinstance(value, dict):
        key_type, item_type = get_args(kind)
        return _named(key_type, item_type, value, where, problems)
    return _leaf(annotation, value, where, problems)


def _named(
    key_type: Any, item_type: Any, value: dict[str, object], where: str, problems: list[str]
) -> dict[str, object]:
    """A table of tables, such as [groups.*]."""
    good: dict[str, object] = {}
    for key, item in value.items():
        _leaf(key_type, key, f"the name of {key_path(where, key)}", problems)
        if (converted := _value(item_type, item, key_path(where, key), problems)) is not BAD:
            good[key] = converted
    return good


def _leaf(annotation: Any, value: object, where: str, problems: list[str]) -> object:
    """A single value within its bounds, or BAD."""
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        problems.append(f"expected {where} to be {in_words(annotation)}, got {value_in_words(value)}")
        return BAD


def _unknown_key(key: str, where: str, known: Collection[str]) -> str:
    """The sentence about a key that nobody reads; a key of another table is told where it belongs.

    Unless it is but a letter away from one of this table: who writes [group.x] means [groups.x].
    """
    slips = difflib.get_close_matches(key, known, n=1, cutoff=0.9)
    if slips:
        return f"unknown key {key_path(where, key)}; did you mean {slips[0]}?"
    homes = [row.key for row in rows() if row.key.rpartition(".")[2] == key]
    hint = f"it belongs to {' and '.join(homes)}" if homes else nearest(key, known)
    return f"unknown key {key_path(where, key)}; {hint}"


def key_path(where: str, key: str) -> str:
    """The path of a key; a key that TOML must quote is quoted."""
    name = key if key.replace("-", "").isidentifier() else f'"{key}"'
    return f"{where}.{name}" if where else name
