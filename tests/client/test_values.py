"""What travels: every kind of value, there and back, plain or as the annotation says."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np
import pytest

import shmq
from shmq.errors import BadArguments, TooLarge, Unencodable
from tests.client import declared
from tests.client.declared import Box, Colour, Point

pytestmark = pytest.mark.usefixtures("client")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        2**64 - 1,
        -(2**63),
        1.5,
        math.inf,
        -math.inf,
        "",
        "text",
        "ünï\0çode",
        b"",
        b"\x00\xff",
        [],
        [1, [2, [3]]],
        {},
        {"a": {"b": [None]}},
        {1: "int keys", 2: True},
        "x" * 10_000,
        b"y" * 300_000,
        list(range(20_000)),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_messagepack_values_come_back_equal(value):
    assert declared.echo.submit(value).result(10) == value


def test_not_a_number_comes_back_as_such():
    assert math.isnan(declared.echo.submit(math.nan).result(10))


def test_tuples_and_sets_arrive_as_lists_without_annotation():
    assert declared.echo.submit((1, 2)).result(10) == [1, 2]
    assert sorted(declared.echo.submit({3, 1}).result(10)) == [1, 3]
    assert sorted(declared.echo.submit(frozenset({3, 1})).result(10)) == [1, 3]


def test_tuples_and_sets_arrive_as_such_with_annotation():
    assert declared.pair.submit((1, "a")).result(10) == (1, "a")
    assert declared.unique.submit({1, 2}).result(10) == {0, 1, 2}


def test_moments_keep_their_zone_or_none():
    with_zone = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
    assert declared.at.submit(with_zone).result(10) == with_zone.replace(hour=13)
    naive = datetime(2024, 2, 29, 12, 30)  # noqa: DTZ001
    result = declared.at.submit(naive).result(10)
    assert result == naive.replace(hour=13)
    assert result.tzinfo is None
    assert declared.day.submit(date(2024, 2, 29)).result(10) == date(2024, 2, 29)


def test_uuid_and_decimal_arrive_as_themselves():
    key = uuid4()
    assert declared.identify.submit(key).result(10) == key
    amount = declared.price.submit(Decimal("0.10")).result(10)
    assert (amount, type(amount)) == (Decimal("0.20"), Decimal)


def test_records_and_enums_arrive_as_their_types():
    assert declared.move.submit(Point(1, 2.5), by=3).result(10) == Point(4, 2.5)
    assert declared.relabel.submit(Box(Point(1), "a"), "b").result(10) == Box(Point(1), "b", Colour.BLUE)
    assert declared.other.submit(Colour.RED).result(10) is Colour.BLUE
    assert declared.points.submit({"b": Point(2), "a": Point(1)}).result(10) == [Point(1), Point(2)]
    assert declared.maybe.submit(Point(1)).result(10) == Point(1)
    assert declared.maybe.submit().result(10) is None


def test_keyword_arguments_are_converted_like_positional_ones():
    assert declared.move.submit(by=2, point=Point(1)).result(10) == Point(3)
    assert declared.unique.submit(values={5}).result(10) == {0, 5}


def test_numpy_scalars_travel_as_numbers():
    assert declared.kind.submit(np.float64(1.5)).result(10) == "float"
    assert declared.kind.submit(np.int32(7)).result(10) == "int"
    assert declared.echo.submit([np.int64(7), np.bool_(True)]).result(10) == [7, True]


@pytest.mark.parametrize(
    "value", [object(), 1j, lambda: 0, range(3), open, type, iter([])], ids=lambda value: type(value).__name__
)
def test_what_cannot_travel_is_refused_at_submit_by_task_and_type(value):
    with pytest.raises(Unencodable, match=r"declared\.echo") as caught:
        declared.echo.submit(value)
    assert type(value).__name__ in str(caught.value)
    assert "path instead" in str(caught.value)  # what to do
    assert declared.echo.submit(1).result(10) == 1


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_numbers_beyond_64_bits_are_refused(number):
    with pytest.raises(Unencodable, match="echo"):
        declared.echo.submit(number)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(Unencodable, match="echo"):
        declared.echo.submit("\ud800")


@pytest.mark.parametrize("value", ["\udcff", ["a", {"k": ["é", "\udce9\n"]}], Path("\udcff") / "b"])
def test_names_of_files_that_are_not_utf8_travel(value):
    plain = str(value) if isinstance(value, Path) else value
    assert declared.echo.submit(value).result(10) == plain
    assert declared.echo.submit(value=value).result(10) == plain
    assert list(shmq.map(declared.echo, ["first", value, 3])) == ["first", plain, 3]
    array, text = declared.echo.submit([np.ones(1000), value]).result(10)
    assert (array.sum(), text) == (1000, plain)


@pytest.mark.parametrize("path", ["a/b", "/tmp/\udcff"])
def test_a_path_is_a_path_where_the_annotations_say_so(path):
    assert declared.parent_of.submit(Path(path)).result(10) == Path(path).parent
    assert declared.parent_of.submit(path).result(10) == Path(path).parent
    assert list(shmq.map(declared.parent_of, [path, Path(path)])) == [Path(path).parent] * 2


@pytest.mark.parametrize("depth", [100_000, 1_000])
def test_too_deep_a_value_is_refused_and_a_deep_one_travels(depth):
    value: list = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(Unencodable, match="nested deeper"):
        declared.echo.submit(value)
    shallow: list = []
    for _ in range(100):
        shallow = [shallow]
    assert declared.echo.submit(shallow).result(10) == shallow


def test_a_value_above_the_block_budget_is_refused_with_sizes():
    with pytest.raises(TooLarge, match=r"declared\.length: \d+ bytes do not fit a block") as caught:
        declared.length.submit(b"x" * (9 << 20))
    assert "block_budget_bytes" in str(caught.value)
    assert declared.length.submit(b"x" * (7 << 20)).result(10) == 7 << 20


def test_a_result_that_cannot_travel_fails_its_job_only():
    with pytest.raises(Unencodable, match=r"declared\.unencodable_result"):
        declared.unencodable_result.submit().result(10)
    with pytest.raises(TooLarge, match=r"the result of .*declared\.blob: \d+ bytes do not fit a block"):
        declared.blob.submit(9 << 20).result(10)
    assert declared.echo.submit(1).result(10) == 1


def test_large_results_come_back_whole():
    assert declared.blob.submit(1_000_000).result(10) == b"x" * 1_000_000


@pytest.mark.parametrize("size", range(380, 480, 7))
def test_argument_and_result_around_the_slot_size_are_equal(size):
    value = bytes(i % 251 for i in range(size))
    assert declared.echo.submit(value).result(10) == value


def test_a_value_of_the_wrong_type_is_refused_by_the_worker_with_its_place():
    with pytest.raises(shmq.ShmqError) as caught:
        declared.typed_number.submit("seven").result(10)
    assert isinstance(caught.value, TypeError)  # BadArguments
    assert "typed_number" in str(caught.value)
    assert "Expected `int`, got `str`" in str(caught.value)


def test_an_ext_value_fails_its_job():
    with pytest.raises(ValueError, match="ext code 5"):
        declared.echo.submit(msgspec.msgpack.Ext(5, b"abc")).result(10)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.ma.masked_array([1, 2], [False, True]), "its mask would be lost"),
        (np.datetime64("2026-01-01T00:00:00", "ns"), "no like in Python"),
        (np.longdouble(3), "no like in Python"),
    ],
    ids=["masked array", "nanoseconds", "long double"],
)
def test_numpy_values_that_would_arrive_as_something_else_are_refused(value, why):
    with pytest.raises(Unencodable, match=why):
        declared.echo.submit(value)


@pytest.mark.parametrize(("shape", "dtype"), [(-1, "f8"), ((2, -3), "f8"), (3, "O"), (3, [("a", "i4")])])
def test_an_array_that_cannot_lie_in_shared_memory_is_refused(shape, dtype):
    with pytest.raises(BadArguments, match="can lie in shared memory"):
        shmq.empty(shape, dtype)
