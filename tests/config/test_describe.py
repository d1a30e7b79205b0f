"""The words about the configuration: complete, and the same in README."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shmq.config.describe import BEGIN, END, in_words, markdown, rows
from shmq.config.model import Config, DeadLetters, Group, Limit, Memory, Planner, Route, Supervisor

README = Path(__file__).parents[2] / "README.md"


def test_every_field_of_every_table_is_described():
    described = [row.key.rpartition(".")[2] for row in rows()]
    tables = (Group, Limit, Memory, Planner, Route, Supervisor, DeadLetters)
    fields = [name for table in tables for name in table.__struct_fields__] + ["namespace", "tasks"]
    assert sorted(described) == sorted(fields)


def test_every_key_has_a_meaning():
    assert [row.key for row in rows() if not row.meaning] == []


def test_meanings_fit_a_table_row():
    assert [row.key for row in rows() if "|" in row.meaning + row.expected or "\n" in row.meaning] == []


@pytest.mark.parametrize("table", [Group, Memory, Supervisor, DeadLetters, Route, Limit])
def test_every_default_is_within_its_own_bounds(table):
    for field in msgspec.structs.fields(table):
        if not field.required:
            msgspec.convert(field.default, field.type)


def test_durations_and_sizes_carry_their_unit():
    keys = {name for table in (Group, Limit, Memory, Supervisor, DeadLetters) for name in table.__struct_fields__}
    assert {key for key in keys if key.endswith(("_ms", "_seconds", "_mb", "timeout", "interval"))} == set()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("max_workers", 'an integer from 1 to 1000 or "auto"'),
        ("timeout_s", "a number above 0, at most 1_000_000_000"),
        ("mode", '"predictive", "reactive" or "fixed"'),
        ("escalate_to", 'the name of a group, or ""'),
    ],
)
def test_expectations_read_as_english(field, words):
    (found,) = (f for f in msgspec.structs.fields(Group) if f.name == field)
    assert in_words(found.type) == words


@pytest.mark.skipif(not README.exists(), reason="an installed tree has no README")
def test_readme_documents_every_key():
    text = README.read_text()
    assert BEGIN in text
    assert END in text
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert found == markdown(), "put the output of `python -m shmq.config.describe` between the markers of README.md"


def test_reading_a_configuration_loads_nothing_heavy():
    code = (
        "import sys; from shmq.config.load import parse; parse(''); "
        "print({'numpy', 'rich', 'click', 'psutil', 'asyncio', 'multiprocessing'} & sys.modules.keys())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=README.parent)
    assert output.stdout.strip() == "set()"


def test_a_configuration_is_a_plain_value():
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()
