from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import subprocess
from pathlib import Path

import pytest

from workers.filesystem import ALGORITHMS, compress, hash_file, measure_tree, search_text

OPENERS = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}


@pytest.mark.parametrize("size_bytes", [0, 1, 262_144, 262_145, 1_000_000])
def test_digests_are_those_of_sha256sum(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size_bytes))
    printed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert hash_file(str(path)) == printed.split()[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_offered_algorithm_works(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"shared memory")
    assert hash_file(str(path), algorithm) == hashlib.new(algorithm, b"shared memory").hexdigest()


def test_a_misspelt_algorithm_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"unknown algorithm 'sha265': did you mean 'sha256'"):
        hash_file("/etc/passwd", "sha265")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.py").write_text("import os\nprint('Queue')\n")
    (tmp_path / "b" / "c.py").write_text("queue = 1\n\nQUEUE = 2")
    (tmp_path / "b" / "d.txt").write_text("queue in text\n")
    (tmp_path / "binary").write_bytes(b"queue\0queue\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_search_finds_lines_in_files_below_a_folder_in_order(tree: Path) -> None:
    outcome = search_text(str(tree), "queue")
    assert [(Path(m.path).name, m.line_number, m.line) for m in outcome.matches] == [
        ("c.py", 1, "queue = 1"),
        ("d.txt", 1, "queue in text"),
    ]
    assert (outcome.files_searched, outcome.files_skipped, outcome.is_complete) == (3, 2, True)


def test_search_obeys_case_pattern_and_regex(tree: Path) -> None:
    folded = search_text(str(tree), "queue", ignore_case=True, file_pattern="*.py")
    assert [(Path(m.path).name, m.line_number) for m in folded.matches] == [
        ("a.py", 2),
        ("c.py", 1),
        ("c.py", 3),
    ]
    assert search_text(str(tree), "q.eue").matches == []
    assert len(search_text(str(tree), "^q.eue", is_regex=True).matches) == 2


def test_search_stops_at_max_matches_and_says_so(tree: Path) -> None:
    outcome = search_text(str(tree), "queue", ignore_case=True, max_matches=2)
    assert len(outcome.matches) == 2
    assert not outcome.is_complete


def test_a_line_without_end_is_looked_at_in_pieces_and_keeps_its_number(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_text("first\n" + "x" * 200_000 + "needle\nlast needle\n")
    outcome = search_text(str(path), "needle")
    assert [m.line_number for m in outcome.matches] == [2, 3]
    assert all(len(m.line) <= 500 for m in outcome.matches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": "(", "is_regex": True}, "is broken"),
        ({"text": "a", "max_matches": 0}, "1 to 100000"),
    ],
)
def test_search_refuses_what_it_cannot_look_for(tree: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_text(str(tree), **arguments)


def test_search_in_a_missing_path_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        search_text("/no/such/folder", "a")


@pytest.mark.parametrize("method", OPENERS)
def test_what_was_compressed_unpacks_to_the_original(tmp_path: Path, method: str) -> None:
    source = tmp_path / "data"
    source.write_bytes(b"to and fro " * 100_000)
    outcome = compress(str(source), method=method)
    with OPENERS[method](outcome.path) as packed:
        assert packed.read() == source.read_bytes()
    assert outcome.original_bytes == source.stat().st_size
    assert outcome.compressed_bytes == Path(outcome.path).stat().st_size < 100_000


@pytest.mark.parametrize("method", OPENERS)
def test_compressing_again_gives_the_same_bytes(tmp_path: Path, method: str) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(1000) * 50)
    packed = Path(compress(str(source), method=method).path)
    first = packed.read_bytes()
    os.utime(source, (1, 1))
    compress(str(source), method=method)
    assert packed.read_bytes() == first


def test_a_gzip_header_holds_neither_time_nor_name(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(b"x")
    assert Path(compress(str(source)).path).read_bytes()[3:8] == bytes(5)  # flags and time, RFC 1952


def test_compress_refuses_bad_method_level_and_itself(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(b"x")
    with pytest.raises(ValueError, match="unknown method 'zip'"):
        compress(str(source), method="zip")
    with pytest.raises(ValueError, match="level is 0"):
        compress(str(source), level=0)
    with pytest.raises(ValueError, match="is the source"):
        compress(str(source), str(source))
    assert os.listdir(tmp_path) == ["data"]


def test_measure_counts_what_du_counts(tree: Path) -> None:
    (tree / "twice").hardlink_to(tree / "b" / "d.txt")
    size = measure_tree(str(tree), largest=2)
    assert (size.files, size.folders, size.other) == (4, 1, 2)
    assert size.size_bytes == sum(len(Path(tree / n).read_bytes()) for n in ("a.py", "b/c.py", "b/d.txt", "binary"))
    assert [Path(f.path).name for f in size.largest] == ["a.py", "c.py"]
    assert size.bytes_by_suffix[".py"] == (tree / "a.py").stat().st_size + (tree / "b" / "c.py").stat().st_size
    printed = subprocess.run(
        ["find", tree, "-type", "f", "-printf", "%b\n"], capture_output=True, text=True, check=True
    )
    link_blocks = (tree / "twice").stat().st_blocks
    assert size.disk_bytes == 512 * (sum(map(int, printed.stdout.split())) - link_blocks)


def test_measure_without_largest_names_none_and_wrong_paths_are_errors(tree: Path) -> None:
    assert measure_tree(str(tree), largest=0).largest == []
    with pytest.raises(ValueError, match="0 to 1000"):
        measure_tree(str(tree), largest=-1)
    with pytest.raises(NotADirectoryError):
        measure_tree(str(tree / "a.py"))
    with pytest.raises(FileNotFoundError):
        measure_tree(str(tree / "no"))
