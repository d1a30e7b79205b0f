"""The public surface: what is exported, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import types
import typing

import pytest

import shmq


def test_all_names_exist_and_nothing_else_is_public():
    for name in shmq.__all__:
        assert getattr(shmq, name) is not None
    assert sorted(set(shmq.__all__)) == sorted(shmq.__all__)
    assert set(dir(shmq)) == set(shmq.__all__)
    public = {
        name
        for name, value in vars(shmq).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public - set(shmq.__all__) <= {"annotations", "TYPE_CHECKING", "Any"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = shmq.nothing_of_ours


def test_a_task_keeps_name_documentation_and_signature():
    @shmq.task
    def area(width: int, height: int = 2) -> int:
        """Width times height."""
        return width * height

    assert (area.__name__, area.__doc__, area(3)) == ("area", "Width times height.", 6)
    assert typing.get_type_hints(area.function)["width"] is int


@pytest.mark.parametrize("first_use", ["", "shmq.task; shmq.Client; shmq.submit; shmq.map; shmq.Executor"])
def test_a_producer_loads_neither_supervisor_nor_heavy_modules(first_use):
    code = f"import shmq, sys; {first_use}\nprint(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    unwanted = {"supervisor", "worker", "cli", "monitor", "planner", "memcheck", "observe"}
    heavy = {"numpy", "psutil", "memray", "matplotlib", "rich", "click", "setproctitle"}
    found = [name for name in loaded if name in heavy or (name.startswith("shmq.") and name.split(".")[1] in unwanted)]
    assert found == []
