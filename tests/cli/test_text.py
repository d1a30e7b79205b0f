from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.cli.jobs.values import Malformed, json_arguments, text_argument, to_json
from shmq.cli.service.toml import as_toml
from shmq.cli.text import number, printable, seconds, size, table
from shmq.config.load import parse
from shmq.config.model import Config

WHOLE = """
namespace = "a.b"
tasks = ["one", "two.three"]
[groups.net-work]
kind = "io"
timeout_s = 0.25
escalate_to = ""
[groups.memory]
max_workers = "auto"
rate_per_s = 1e-5
[supervisor]
task_output = 'C:\\a "quoted" path'
[limits."img.*"]
rate_per_s = 3.5
[limits.plain]
burst = 2
rate_per_s = 1
[[routes]]
task = "img.?"
group = "memory"
[[routes]]
task = "x"
group = "memory"
min_payload_bytes = 5
"""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 ns"), (3.4e-7, "340 ns"), (1.25e-5, "12.5 µs"), (0.00125, "1.25 ms"), (34.0, "34 s"), (119.0, "119 s"),
        (300.0, "5 min"), (3600 * 3.2, "3.2 h"), (86400 * 12.0, "12 days"), (None, "·"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(value, shown):
    assert seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (53 << 20, "53.0 MiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_in_binary_units(value, shown):
    assert size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "·"), (0, "0"), (1234567, "1,234,567"), (0.1234, "0.123"), (123456.7, "123,457")]
)
def test_numbers_look_no_more_exact_than_they_are(value, shown):
    assert number(value) == shown


def test_tables_align_their_columns():
    text = table(["name", ">count"], [["a", "1"], ["longer", "1,000"]])
    assert text == "name    count\na           1\nlonger  1,000"


@given(st.text())
def test_shown_text_holds_nothing_that_a_terminal_obeys(text):
    shown = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)


def test_long_text_is_shortened():
    assert printable("x" * 100, 10) == "x" * 9 + "…"


# -- arguments and results -------------------------------------------------------------


def test_a_line_of_text_is_the_one_argument():
    assert text_argument(b" a b ") == ((" a b ",), {})
    assert text_argument(b"") == (("",), {})


def test_a_line_that_is_not_utf8_is_what_the_system_calls_such_a_file():
    assert text_argument(b"a\xff") == ((os.fsdecode(b"a\xff"),), {})
    assert to_json(["a\udcff", "é"]) == b'["a\\udcff","\\u00e9"]'


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (b"[1, [2]]", ((1, [2]), {})),
        (b'{"a": 1}', ((), {"a": 1})),
        (b'"text"', (("text",), {})),
        (b"null", ((None,), {})),
        (b"[]", ((), {})),
    ],
)
def test_a_json_line_holds_all_arguments_or_the_only_one(line, arguments):
    assert json_arguments(line) == arguments


@pytest.mark.parametrize("line", [b"", b"{", b"NaN", b"[1,]", b"{'a': 1}", b'"\\ud800"', b"\xff", b"[" * 100_000])
def test_other_lines_are_malformed_json(line):
    with pytest.raises(Malformed, match="not JSON"):
        json_arguments(line)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.arange(4).reshape(2, 2), "[[0,1],[2,3]]"),
        (np.float64(0.5), "0.5"),
        (np.array([1.0, np.nan, np.inf]), "[1.0,null,null]"),
        (np.array(3), "3"),
        (np.array([1 + 2j]), "[[1.0,2.0]]"),
        (float("nan"), "null"),
        (b"\x00\xff", '"AP8="'),
        ({"a": {1}, "b": (1, 2)}, '{"a":[1],"b":[1,2]}'),
        (uuid.UUID(int=0), '"00000000-0000-0000-0000-000000000000"'),
        (decimal.Decimal("1.10"), '"1.10"'),
        (dt.date(2024, 1, 2), '"2024-01-02"'),
        ("ü\n", '"ü\\n"'),
    ],
    ids=str,
)
def test_results_have_a_json_form(value, shown):
    assert to_json(value).decode() == shown
    json.loads(to_json(value))


def test_what_has_no_json_form_is_refused():
    with pytest.raises((TypeError, NotImplementedError)):
        to_json(object())


# -- configuration ---------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", WHOLE, '[groups.only]\nmin_workers = 0\n[groups."with.dot"]'])
def test_a_configuration_as_toml_loads_to_the_same(text):
    config = parse(text)
    assert parse(as_toml(config)) == config


def test_every_key_in_force_is_shown():
    shown = as_toml(Config())
    assert "[groups.network]" in shown
    assert "max_producers = 32" in shown
    assert 'namespace = "default"' in shown
