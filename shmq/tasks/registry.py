"""Which tasks exist: imported modules in the workers, a published list for everybody else.

The fork server imports the task modules and publishes `registry.json` in the state directory; the
header word `registry` counts its versions. A record names a task by key only, and only keys of
this registry are ever run.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from shmq.config import check
from shmq.config.model import Route
from shmq.errors import ConfigError, ShmqError
from shmq.tasks.task import AUTO, Task, key_of

FILE = "registry.json"
FORMER_FILE = "former_tasks.json"
_MOST_FORMER, _MOST_NAMED = 1000, 12
_FRESH_S = 2.0
DEFAULT_GROUPS = ("computation", "memory", "network", "filesystem")


class Rule(msgspec.Struct, frozen=True):
    """A `[[routes]]` table that one task matches; `number` counts the tables of the config from 0."""

    number: int
    task: str
    group: str
    min_payload_bytes: int = 0


class TaskInfo(msgspec.Struct, frozen=True):
    """One published task.

    `options` as in `shmq.tasks.task.Options`, exception types by name; `words`: parameters in order, each with what a
    plain word stands for there: "int", "float", "bool", or "" for text; `rules` as they apply; `limit`: number and
    pattern of the `[limits."pattern"]` table that it obeys.
    """

    name: str
    key: int
    signature: str
    options: dict[str, Any]
    doc: str = ""
    words: list[tuple[str, str]] = []
    rules: tuple[Rule, ...] = ()
    limit: tuple[int, str] | None = None

    @property
    def is_auto(self) -> bool:
        """Is the group left to the planner?"""
        return bool(self.options["group"] == AUTO)

    yields: bool = False  # a generator: its jobs can be read as streams
    is_coroutine: bool = False


def load(modules: list[str], folder: Path | None) -> dict[int, Task[..., Any]]:
    """Import the task modules and collect their tasks by key.

    Args:
        folder: the config file's folder, put first on the import path.

    Raises:
        ConfigError: two tasks share a key (their names collide). Import errors pass through.
    """
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    tasks: dict[int, Task[..., Any]] = {}
    for name in modules:
        for task in tasks_of(_imported(name)):
            other = tasks.setdefault(task.key, task)
            if other.name != task.name:
                raise ConfigError(f"tasks {other.name} and {task.name} share the key {task.key:#x}; rename one")
    return tasks


def _imported(name: str) -> ModuleType:
    """The module, imported.

    Python tells what it compiled by the second and the size of the source: code that a reload finds might be replaced
    within that second once more. So no compiled file is kept of a task module that is not older than that; what it
    imports is not looked at.
    """
    known = sys.dont_write_bytecode
    with contextlib.suppress(OSError, ValueError):  # no file at all
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and time.time() - os.stat(spec.origin).st_mtime < _FRESH_S:
            sys.dont_write_bytecode = True
    try:
        return importlib.import_module(name)
    finally:
        sys.dont_write_bytecode = known


def refuse_unknown_groups(tasks: Iterable[Task[..., Any]], groups: Iterable[str]) -> None:
    """Raises ConfigError that names every task whose group the configuration lacks."""
    known = {*groups, "auto"}
    problems = [
        f"task {task.name} asks for group {task.settings.group!r}, which the configuration lacks; "
        f"{check.nearest(task.settings.group, groups)}\n"
        f"Add [groups.{task.settings.group}], or change the task's group."
        for task in tasks
        if task.settings.group not in known
    ]
    if problems:
        raise ConfigError(problems)


def why_not_loaded(error: BaseException) -> str:
    """What the user must know about a task module that cannot be used: no line of shmq or importlib."""
    if isinstance(error, ConfigError):
        return str(error)
    told = traceback.TracebackException.from_exception(error)
    theirs = [i for i, frame in enumerate(told.stack) if not _is_machinery(frame.filename)]
    told.stack = traceback.StackSummary.from_list(told.stack[theirs[0] :] if theirs else [])
    lines = told.format() if theirs else told.format_exception_only()
    text = "a task module cannot be imported\n" + "".join(lines).rstrip()
    if isinstance(error, ModuleNotFoundError) and not theirs:
        if error.name is not None and error.name.endswith(".py"):
            return f"{text}\n`tasks` names modules, not files: {error.name.removesuffix('.py')!r}."
        text += "\nTask modules are looked for in the configuration's folder, then as Python does."
    return text


def _is_machinery(filename: str) -> bool:
    return filename.startswith(("<frozen", importlib.__file__, str(Path(__file__).parent.parent)))


def tasks_of(module: ModuleType) -> list[Task[..., Any]]:
    """Tasks that a module declares or imports by name."""
    return [value for value in vars(module).values() if isinstance(value, Task)]


def rules_of(name: str, routes: Iterable[Route]) -> tuple[Rule, ...]:
    """The rules that a task matches, in their order, up to the first that takes every job."""
    found = []
    for i, route in enumerate(routes):
        if fnmatchcase(name, route.task):
            found.append(Rule(i, route.task, route.group, route.min_payload_bytes))
            if not route.min_payload_bytes:
                break
    return tuple(found)


def default_group(groups: Collection[str]) -> str:
    """Where jobs of a task with `group = "auto"` go before it is known what they are like."""
    return next((name for name in DEFAULT_GROUPS if name in groups), min(groups, default=DEFAULT_GROUPS[0]))


def limit_of(name: str, patterns: Iterable[str]) -> tuple[int, str] | None:
    """Number and pattern of the first `[limits."pattern"]` that a task matches."""
    return next(((i, pattern) for i, pattern in enumerate(patterns) if fnmatchcase(name, pattern)), None)


def unmatched_tables(names: Collection[str], limits: Iterable[str], routes: Iterable[Route]) -> list[str]:
    """Of tables that are for tasks of a pattern, one sentence for each that no task matches."""
    tables = [(f'[limits."{pattern}"]', pattern) for pattern in limits]
    tables += [(f'[[routes]] with task = "{route.task}"', route.task) for route in routes]
    return [
        f"no task matches {table}: it does nothing. {nearest(pattern, list(names))}"
        for table, pattern in tables
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def publish(
    tasks: dict[int, Task[..., Any]], state_dir: Path, routes: Iterable[Route] = (), limits: Iterable[str] = ()
) -> None:
    """Write the registry for producers, whole or not at all, each task with the rules and limit that it matches."""
    routes, limits = tuple(routes), tuple(limits)
    infos = [
        {**task.describe(), "rules": rules_of(task.name, routes), "limit": limit_of(task.name, limits)}
        for task in tasks.values()
    ]
    infos.sort(key=lambda info: info["name"])
    names = {info["name"] for info in infos}
    gone = [name for name in dict.fromkeys([*_former(state_dir), *read(state_dir)]) if name not in names]
    _replace(state_dir / FORMER_FILE, gone[-_MOST_FORMER:])
    _replace(state_dir / FILE, infos)


def _replace(path: Path, content: object) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(content))
    temporary.rename(path)


def former_names(state_dir: Path) -> dict[int, str]:
    """By key, tasks that are no more: what was queued for them is put aside under its name, to be run again."""
    return {key_of(name): name for name in _former(state_dir)}


def _former(state_dir: Path) -> list[str]:
    try:
        return msgspec.json.decode((state_dir / FORMER_FILE).read_bytes(), type=list[str])
    except FileNotFoundError:
        return []


def read(state_dir: Path) -> dict[str, TaskInfo]:
    """The published registry by name; empty before the first worker is ready. Raises ShmqError when it is damaged."""
    path = state_dir / FILE
    try:
        infos = msgspec.json.decode(path.read_bytes(), type=list[TaskInfo])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ShmqError(f"the list of tasks {path} cannot be read: {error}.\n`shmq reload` writes it anew.") from None
    return {info.name: info for info in infos}


def nearest(name: str, known: list[str]) -> str:
    """Did you mean ...? for a misspelt name, or a list of what there is."""
    tails: dict[str, list[str]] = {}
    for whole in known:
        tails.setdefault(whole.rsplit(".", 1)[-1], []).append(whole)
    alike = difflib.get_close_matches(name.rsplit(".", 1)[-1], tails, n=3)  # modules have long names in common
    close = tails.get(name.rsplit(".", 1)[-1]) or [whole for tail in alike for whole in tails[tail]]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    return f"Registered: {', '.join(sorted(known)[:_MOST_NAMED]) or 'nothing'}{more}."
