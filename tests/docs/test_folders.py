"""READMEs of the packages: ownership, sync points, state machine, modules and tests that they name exist as said."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from shmq.memory import locks
from shmq.memory.layout import FIELDS
from shmq.transport import table as words
from tests.crash.model import monitor
from tests.docs.fences import ROOT, functions, links, section, source, table

FOLDERS = ("memory", "transport", "client", "worker", "supervisor")
TEXTS = {name: (ROOT / "shmq" / name / "README.md").read_text() for name in FOLDERS}
MEMORY, TRANSPORT = TEXTS["memory"], TEXTS["transport"]
STATES = ("FREE", "QUEUED", "REQUEUED", "LEASED", "RUNNING", "SCHEDULED", "DONE", "FAILED", "CANCELLED")
_POINT = re.compile(r"SYNC POINT: ([a-z-]+)")


@cache
def definitions(module: str) -> dict[str, str]:
    """Source of each function and of each constant of a module."""
    text = source(module)
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = ast.get_source_segment(text, node) or ""
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ""
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_told_and_no_other(folder):
    told = {row[0] for row in table(TEXTS[folder])}
    here = ROOT / "shmq" / folder
    modules = {path.name for path in here.glob("*.py") if path.name != "__init__.py"}
    packages = {f"{path.parent.name}/" for path in here.glob("*/__init__.py")}
    assert told == modules | packages


def test_every_module_of_the_workers_packages_is_told():
    here = ROOT / "shmq" / "worker"
    modules = [path for path in here.glob("*/*.py") if path.name != "__init__.py"]
    told = [row[0] for row in table(section(TEXTS["worker"], "Packages"))]
    assert sorted(told) == sorted(path.relative_to(here).as_posix() for path in modules)


@pytest.mark.parametrize("folder", FOLDERS)
def test_links_lead_somewhere(folder):
    for target in links(TEXTS[folder]):
        assert (ROOT / "shmq" / folder / target).exists(), target


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_function_that_is_named_exists(folder):
    for module, name in functions(TEXTS[folder]):
        assert name in definitions(module), f"{module} has no {name}"


def test_the_ownership_table_is_that_of_the_layout():
    told = table(section(MEMORY, "Who may write what"))
    assert told == [[field.name, field.writer, field.what] for field in FIELDS]


def test_lock_bytes_are_those_of_the_lock_file():
    told = [row[0].split() for row in table(section(MEMORY, "Record locks"))]
    assert {row[1]: int(row[0]) for row in told if row[1] != "+"} == {
        "supervisor": locks.SUPERVISOR, "recovery": locks.RECOVERY, "planner": locks.PLANNER,
    }  # fmt: skip
    bytes_of = (locks.group_byte, locks.arena_byte, locks.limit_byte, locks.producer_byte, locks.worker_byte)
    assert [int(row[0]) for row in told if row[1] == "+"] == [byte(0) for byte in bytes_of]


def sync_points_in_code() -> dict[str, set[str]]:
    """Modules of each name."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "shmq").rglob("*.py")):
        for name in _POINT.findall(path.read_text()):
            found.setdefault(name, set()).add(path.relative_to(ROOT / "shmq").as_posix())
    return found


def test_every_sync_point_is_listed_where_it_stands():
    rows = table(section(MEMORY, "Sync points"))
    told = {name: {module for module, _ in functions(kept)} for name, _, kept, _ in rows}
    assert told == sync_points_in_code()


def test_the_listed_function_holds_its_sync_point():
    for name, _, kept, _ in table(section(MEMORY, "Sync points")):
        for module, function in functions(kept):
            text = definitions(module)[function]
            assert not text or f"SYNC POINT: {name}" in text, f"{name}: not in {module}:{function}"


def test_both_ends_of_a_sync_point_are_named():
    for name, _, kept, relied in table(section(MEMORY, "Sync points")):
        assert functions(relied) or (len(functions(kept)) > 1 and relied.startswith("the same places")), name


def test_bits_of_the_job_word_are_those_of_the_table():
    masks = {
        "state": words.STATE, "crashes": words.CRASHES, "failures": words.FAILURES, "group": words.GROUP,
        "owner": words.OWNER, "generation": 0xFFFFFFFF << words.GENERATION_SHIFT,
    }  # fmt: skip
    told = {}
    for bits, name, _ in table(section(TRANSPORT, "The job word")):
        first, last = map(int, bits.split("-"))
        told[name] = (1 << last + 1) - (1 << first)
    assert told == masks


def test_states_are_those_of_the_table():
    assert [getattr(words, name) for name in STATES] == list(range(len(words.STATE_NAMES)))
    rows = table(section(TRANSPORT, "States"))
    assert {state for row in rows for state in row[:2]} == set(STATES)
    picture = section(TRANSPORT, "States").partition("Each arrow")[0]
    assert set(re.findall(r"\b[A-Z]{4,}\b", picture)) == set(STATES)


def test_arrows_are_those_of_the_model():
    """The model leaves out two things: kills of a running job, and words that nobody of us wrote."""
    rows = table(section(TRANSPORT, "States"))
    told = {(row[0], row[1]) for row in rows}
    assert len(told) == len(rows)
    known = {(STATES[old], STATES[new]) for old, new in monitor._ARROWS}
    assert known <= told
    assert told - known <= {("RUNNING", "CANCELLED"), ("LEASED", "FAILED")}


def test_the_function_behind_an_arrow_exists_and_has_one_writer():
    for old, new, _, writer, stored in table(section(TRANSPORT, "States")):
        assert functions(stored), (old, new)
        assert writer


def test_every_promise_names_tests_that_exist():
    rows = table(section(TRANSPORT, "Promises, and where they are tested"))
    assert [row[0] for row in rows] == [f"P{n}" for n in range(1, 19)]
    for number, _, where in rows:
        files = re.findall(r"tests/[\w/]+\.py", where)
        assert files or where == "said, not tested", number
        assert [file for file in files if not (ROOT / file).exists()] == [], number
