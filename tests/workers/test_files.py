from __future__ import annotations

import fcntl
import gc
import os
import signal
from pathlib import Path

import pytest

from workers.files import open_regular, refuse_same_file, replaced_file


def test_a_fifo_is_refused_instead_of_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a FIFO"):
        open_regular(str(tmp_path / "pipe"))


def test_devices_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="character device"):
        open_regular("/dev/zero")
    with pytest.raises(IsADirectoryError, match="one regular file"):
        open_regular(str(tmp_path))


def test_a_file_that_nobody_may_read_is_refused_also_to_root(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch(mode=0o200)
    lock.chmod(0o200)
    with pytest.raises(PermissionError, match="0200"):
        open_regular(str(lock))


def test_a_missing_relative_path_names_the_folder_it_was_looked_up_in() -> None:
    with pytest.raises(FileNotFoundError, match="pass an absolute path"):
        open_regular("no/such/file")
    with pytest.raises(FileNotFoundError, match="check the name"):
        open_regular("/no/such/file")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_file_name_is_a_value_error(path: str) -> None:
    with pytest.raises(ValueError, match="pass a file's name"):
        open_regular(path)
    with pytest.raises(ValueError, match="pass a file's name"), replaced_file(path):
        pass


def test_refused_files_leave_no_descriptor_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    gc.collect()  # what earlier tests left in cycles is not this one's
    before = len(os.listdir("/proc/self/fd"))
    for path in (str(tmp_path), str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(OSError, match="regular file"):
            open_regular(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failed_write_leaves_the_old_target_and_no_part(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), replaced_file(str(target)) as output:
        output.write(b"new")
        raise RuntimeError("halfway")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_writer_left_is_overwritten_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "out"
    pid = os.fork()
    if pid == 0:
        with replaced_file(str(target)) as output:
            output.write(b"much that the dead one wrote")
            output.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.listdir(tmp_path) == [".out.part"]
    with replaced_file(str(target)) as output:
        output.write(b"short")
    assert target.read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["out"]


def test_a_second_writer_of_one_target_is_refused(tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    with replaced_file(target) as output:
        output.write(b"first")
        with pytest.raises(BlockingIOError, match="by another job"), replaced_file(target):
            pass
    assert Path(target).read_bytes() == b"first"


def test_a_part_that_was_renamed_away_while_it_was_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: between open and lock of the part, another writer finishes: the part becomes the target
    target, part = tmp_path / "out", tmp_path / ".out.part"
    flock, calls = fcntl.flock, []

    def flock_after_rename(descriptor: int, operation: int) -> None:
        if not calls:
            os.replace(part, target)
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_rename)
    # When
    with replaced_file(str(target)) as output:
        finished_by_other = target.stat().st_ino
        output.write(b"ours")
    # Then: the other's file was not written into
    assert len(calls) == 2
    assert target.stat().st_ino != finished_by_other
    assert target.read_bytes() == b"ours"


def test_a_target_in_a_missing_folder_or_on_a_folder_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="Create it first"),
        replaced_file(str(tmp_path / "no" / "out")),
    ):
        pass
    with pytest.raises(IsADirectoryError, match="name the file"), replaced_file(str(tmp_path)):
        pass


def test_a_target_that_is_the_source_is_refused_through_a_link_too(tmp_path: Path) -> None:
    source, link = tmp_path / "source", tmp_path / "link"
    source.touch()
    link.hardlink_to(source)
    with pytest.raises(ValueError, match="is the source"):
        refuse_same_file(str(link), str(source))
    refuse_same_file(str(tmp_path / "new"), str(source))
