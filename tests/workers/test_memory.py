from __future__ import annotations

import contextlib
import csv
import gc
import itertools
import os
import random
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from workers import spill
from workers.memory import array_statistics, csv_statistics, external_sort, join_csv


def write_csv(path: Path, rows: list[list[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def read_csv(path: str) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("chunk_rows", [1, 7, 100, 20_000])
def test_csv_statistics_are_numpys_whatever_the_chunk(tmp_path: Path, chunk_rows: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(1e9, 1.0, 100)  # far from zero: sums of squares would lose all digits
    path = write_csv(
        tmp_path / "t.csv", [["name", "value"], *([f"n{i}", repr(float(v))] for i, v in enumerate(values))]
    )
    outcome = csv_statistics(path, chunk_rows=chunk_rows)
    assert outcome.rows == 100
    name, value = outcome.columns
    assert (name.text_cells, name.numbers.count, name.numbers.mean) == (100, 0, None)
    assert value.numbers.mean == pytest.approx(values.mean(), rel=1e-14)
    assert value.numbers.std == pytest.approx(values.std(ddof=1), rel=1e-6)
    assert (value.numbers.minimum, value.numbers.maximum) == (values.min(), values.max())


def test_csv_statistics_count_empty_and_text_cells_apart(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffa;b\n1;x\n; 2 \n3;n/a\n\n", encoding="utf-8")
    a, b = csv_statistics(str(path), ["a", "b"], delimiter=";").columns
    assert (a.numbers.count, a.numbers.missing, a.text_cells, a.numbers.mean) == (2, 1, 0, 2.0)
    assert (b.numbers.count, b.numbers.missing, b.text_cells, b.numbers.mean) == (1, 0, 2, 2.0)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "no header line"),
        ("a,b\n1,2\n1,2,3\n", {}, "line 3 has 3 cells, the header 2"),
        ("a,b\n1,2\n", {"columns": ["c"]}, "no column 'c': its columns are 'a', 'b'"),
        ("a,a\n1,2\n", {}, "2 times the column 'a'"),
        ("a,b\n", {"delimiter": ",,"}, "delimiter is ',,'"),
        ("a,b\n", {"chunk_rows": 0}, "chunk_rows is 0"),
        ('a,b\n"' + "x" * 200_000, {}, "is not CSV"),
    ],
)
def test_broken_csv_input_is_named_with_its_place(
    tmp_path: Path, text: str, arguments: dict[str, object], message: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        csv_statistics(str(path), **arguments)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u1", "?", ">f8"])
def test_array_statistics_are_numpys_for_any_type_and_layout(dtype: str) -> None:
    rng = np.random.default_rng(3)
    array = (rng.random((60, 50, 4)) * 200).astype(dtype)
    for view in (array, array.T, array[::2, ::-3], np.asfortranarray(array)):
        outcome = array_statistics(view, chunk_elements=1024)
        exact = view.astype(np.float64)
        assert outcome.count == view.size
        assert outcome.mean == pytest.approx(exact.mean(), rel=1e-12)
        assert outcome.std == pytest.approx(exact.std(ddof=1), rel=1e-12)
        assert (outcome.minimum, outcome.maximum) == (exact.min(), exact.max())


def test_array_statistics_leave_nan_out_and_know_the_edges() -> None:
    assert array_statistics(np.array([np.nan, 1.0, 3.0])).missing == 1
    assert array_statistics(np.array([np.nan, 1.0, 3.0])).mean == 2.0
    assert array_statistics(np.array([])).count == 0
    assert array_statistics(np.array(5.0)).std is None
    assert array_statistics(np.array([np.inf, 1.0])).maximum == np.inf


def test_array_statistics_need_no_copy_of_the_array() -> None:
    array = np.ones((2000, 1000), dtype=np.float32).T  # 8 MB, as float64 16 MB
    tracemalloc.start()
    try:
        array_statistics(array, chunk_elements=1 << 14)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 << 20


def test_array_statistics_refuse_text_and_complex() -> None:
    with pytest.raises(ValueError, match="array of complex128"):
        array_statistics(np.ones(3, dtype=complex))
    with pytest.raises(ValueError, match="array is list"):
        array_statistics([1.0])
    with pytest.raises(ValueError, match="1024 to"):
        array_statistics(np.ones(3), chunk_elements=0)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sorted_lines_are_those_of_sort(tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "FAN_IN", 3)  # many levels of merging from little data
    rng = random.Random(4)
    lines = [bytes(rng.choices(b"abc \xff\x00\r", k=rng.randrange(40))) for _ in range(20_000)]
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\n".join([*lines, b"the last one without newline"]))
    outcome = external_sort(str(source), str(target), order=order, max_memory_bytes=65_536)
    command = ["sort", *(["-r"] if order == "descending" else []), source]
    expected = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
    assert target.read_bytes() == expected
    assert outcome.lines == 20_001
    assert 1 < outcome.runs < 12
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_sorting_keeps_within_its_memory_and_leaves_no_descriptor(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"".join(b"%012d\n" % (i * 7919 % 200_003) for i in range(200_003)))
    gc.collect()  # what earlier tests left in cycles is not this one's
    before = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    try:
        external_sort(str(source), str(tmp_path / "out"), max_memory_bytes=256 << 10)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20  # 200,000 lines as objects would be 11 MB; 60 merge buffers are 4
    assert len(os.listdir("/proc/self/fd")) == before


def test_runs_that_were_merged_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "FAN_IN", 3)
    gc.collect()  # what earlier tests left in cycles is not this one's
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as opened:
        lines = (b"%d" % i for i in range(20_000))
        runs = spill.sorted_runs(lines, 65_536, str(tmp_path), is_descending=False, opened=opened)
        assert len(os.listdir("/proc/self/fd")) == before + len(runs)
        assert sum(1 for _ in spill.merged(runs, is_descending=False)) == 20_000


def test_an_empty_file_sorts_to_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    assert external_sort(str(tmp_path / "in"), str(tmp_path / "out")).lines == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_sorting_refuses_itself_long_lines_and_too_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"short\n" + b"x" * 20_000)
    target = str(tmp_path / "out")
    with pytest.raises(ValueError, match="is the source"):
        external_sort(str(source), str(source))
    with pytest.raises(ValueError, match="line 2 is longer than 16384 bytes"):
        external_sort(str(source), target, max_memory_bytes=65_536)
    with pytest.raises(ValueError, match="at least 65536"):
        external_sort(str(source), target, max_memory_bytes=100)
    with pytest.raises(ValueError, match="order is 'up'"):
        external_sort(str(source), target, order="up")
    assert os.listdir(tmp_path) == ["in"]


def joined_by_hand(left: list[list[str]], right: list[list[str]], how: str) -> list[list[str]]:
    rows = [["id", "town", "town_right", "mayor"]]
    for (key, town), (partner, *rest) in itertools.product(left[1:], right[1:]):
        if key == partner:
            rows.append([key, town, *rest])
    if how == "left":
        known = {row[0] for row in right[1:]}
        rows += [[key, town, "", ""] for key, town in left[1:] if key not in known]
    return rows


@pytest.mark.parametrize("how", ["inner", "left"])
@pytest.mark.parametrize("max_memory_bytes", [64 << 20, 65_536])
def test_a_join_has_the_rows_of_a_nested_loop(tmp_path: Path, how: str, max_memory_bytes: int) -> None:
    rng = random.Random(5)
    left = [["id", "town"], *([str(rng.randrange(900)), f"town, {i}"] for i in range(600))]
    right = [
        ["id", "town", "mayor"],
        *([str(rng.randrange(900)), "x" * 20, f'M "{i}"\nJr'] for i in range(600)),
    ]
    target = str(tmp_path / "out.csv")
    names = write_csv(tmp_path / "l.csv", left), write_csv(tmp_path / "r.csv", right)
    outcome = join_csv(*names, target, "id", how=how, max_memory_bytes=max_memory_bytes)
    rows = read_csv(target)
    assert rows[0] == ["id", "town", "town_right", "mayor"]
    assert sorted(rows[1:]) == sorted(joined_by_hand(left, right, how)[1:])
    assert outcome.rows == len(rows) - 1
    assert (outcome.partitions > 1) == (max_memory_bytes == 65_536)
    assert sorted(os.listdir(tmp_path)) == ["l.csv", "out.csv", "r.csv"]


def test_joining_again_gives_the_same_bytes_and_odd_bytes_pass(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"id,a\n" + b"".join(b"%d,\xff\xfe%d\n" % (i % 50, i) for i in range(3000)))
    (tmp_path / "r.csv").write_bytes(b"b,id\n" + b"".join(b"r\xff%d,%d\n" % (i, i) for i in range(3000)))
    arguments = (str(tmp_path / "l.csv"), str(tmp_path / "r.csv"), str(tmp_path / "out"), "id")
    partitions = join_csv(*arguments, max_memory_bytes=65_536).partitions
    first = (tmp_path / "out").read_bytes()
    join_csv(*arguments, max_memory_bytes=65_536)
    assert (tmp_path / "out").read_bytes() == first
    assert b"7,\xff\xfe7,r\xff7\n" in first
    # Then: the order comes from a hash that is the same in every process
    places = [zlib.crc32(line.split(b",")[0]) % partitions for line in first.splitlines()[1:]]
    assert places == sorted(places)
    assert len(set(places)) > 1


def test_a_join_in_memory_keeps_the_left_order(tmp_path: Path) -> None:
    left = write_csv(tmp_path / "l.csv", [["k", "n"], ["b", 1], ["a", 2], ["b", 3]])
    right = write_csv(tmp_path / "r.csv", [["k", "m"], ["a", 4], ["b", 5]])
    join_csv(left, right, str(tmp_path / "out"), "k")
    assert (tmp_path / "out").read_text() == "k,n,m\nb,1,5\na,2,4\nb,3,5\n"


def test_a_join_refuses_bad_arguments_and_one_giant_key(tmp_path: Path) -> None:
    left = write_csv(tmp_path / "l.csv", [["k", "n"], ["b", 1]])
    right = write_csv(tmp_path / "r.csv", [["k", "m"], *([["same", "x" * 100]] * 5000)])
    target = str(tmp_path / "out")
    with pytest.raises(ValueError, match="most frequent key 'same'"):
        join_csv(left, right, target, "k", max_memory_bytes=65_536)
    with pytest.raises(ValueError, match="no column 'z'"):
        join_csv(left, right, target, "z")
    with pytest.raises(ValueError, match="how is 'outer'"):
        join_csv(left, right, target, "k", how="outer")
    with pytest.raises(ValueError, match="is the source"):
        join_csv(left, right, right, "k")
    assert sorted(os.listdir(tmp_path)) == ["l.csv", "r.csv"]


def test_too_large_a_table_says_how_much_memory_would_do() -> None:
    sample = [["x" * 998]]
    with pytest.raises(ValueError, match=r"give it (\d+) bytes") as refused:
        spill.partitions_for(sample, 10**9, 1 << 20)
    enough = int(str(refused.value).split("give it ")[1].split()[0])
    assert 10**9 < enough * 256 < 2 * 10**9
    assert spill.partitions_for(sample, 10**9, enough) == 256
    assert spill.partitions_for([], 10**9, 1 << 20) == 1  # a header and nothing else
