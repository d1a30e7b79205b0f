"""Which tasks exist: imported modules in the workers, a published list for everybody else.

The fork server imports the task modules and publishes `registry.json` in the state directory; the
header word `registry` counts its versions. A record names a task by key only, and only keys of
this registry are ever run.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from shmq.errors import ConfigError
from shmq.tasks.task import Task

FILE = "registry.json"


class TaskInfo(msgspec.Struct, frozen=True):
    """One published task. `options` as in `shmq.tasks.task.Options`, exception types by name."""

    name: str
    key: int
    signature: str
    options: dict[str, Any]
    doc: str = ""
    yields: bool = False  # a generator: its jobs can be read as streams


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
        for task in tasks_of(importlib.import_module(name)):
            other = tasks.setdefault(task.key, task)
            if other.name != task.name:
                raise ConfigError(f"tasks {other.name} and {task.name} share the key {task.key:#x}; rename one")
    return tasks


def tasks_of(module: ModuleType) -> list[Task[..., Any]]:
    """Tasks that a module declares or imports by name."""
    return [value for value in vars(module).values() if isinstance(value, Task)]


def publish(tasks: dict[int, Task[..., Any]], state_dir: Path) -> None:
    """Write the registry for producers, whole or not at all."""
    infos = sorted((task.describe() for task in tasks.values()), key=lambda info: info["name"])
    temporary = state_dir / f"{FILE}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.encode(infos))
    temporary.rename(state_dir / FILE)


def read(state_dir: Path) -> dict[str, TaskInfo]:
    """The published registry by name; empty before the first worker is ready."""
    try:
        raw = (state_dir / FILE).read_bytes()
    except FileNotFoundError:
        return {}
    return {info.name: info for info in msgspec.json.decode(raw, type=list[TaskInfo])}


def nearest(name: str, known: list[str]) -> str:
    """Did you mean ...? for a misspelt name, or a list of what there is."""
    by_tail = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    close = by_tail or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Registered: {', '.join(sorted(known)[:12]) or 'nothing'}."
