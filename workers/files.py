"""How the tasks open what they read and write what they leave: no device by chance, no half a file."""

from __future__ import annotations

import fcntl
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 256 * 1024
_PART_TRIES = 10


def open_regular(path: str) -> io.FileIO:
    """Open a regular file for reading, unbuffered.

    A FIFO would block the worker for ever and opening a device can have effects, so only regular files pass.

    Args:
        path: file name; a relative one is looked up in the worker's current folder.

    Raises:
        ValueError: the path is empty or holds a NUL byte.
        FileNotFoundError, PermissionError, IsADirectoryError, OSError: with the path and what to do.
    """
    _check_text(path)
    try:
        mode = os.stat(path).st_mode
        _check_readable(path, mode)
        # O_NONBLOCK: if the name was swapped for a FIFO since the check, the open still returns.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise FileNotFoundError(_missing(path)) from None
    try:
        _check_readable(path, os.fstat(descriptor).st_mode)
        return io.FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def replaced_file(target: str) -> Iterator[BinaryIO]:
    """Write a file that appears under its name whole, or not at all.

    The bytes go into `.NAME.part` beside the target, which is renamed at the end. That name is fixed on
    purpose: the redelivered job of a killed worker overwrites what the dead one left, so no litter piles up.

    Concurrency: the part file is locked; a second writer of the same target is refused, not mixed in.

    Raises:
        BlockingIOError: another job is writing this target now.
        FileNotFoundError, IsADirectoryError: the target's folder is missing, or the target is a folder.
    """
    _check_text(target)
    if os.path.isdir(target):
        raise IsADirectoryError(f"target {target!r} is a folder: name the file to write, not its folder")
    path = Path(target)
    part = path.with_name(f".{path.name}.part")
    with _locked_part(part, target) as output:
        try:
            yield output
            output.flush()
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def refuse_same_file(target: str, *sources: str) -> None:
    """Refuse a target that is also a source: a redelivered job would then read its own outcome.

    Raises:
        ValueError: target and a source are one file.
    """
    for source in sources:
        if os.path.exists(target) and os.path.samefile(source, target):
            raise ValueError(
                f"target {target!r} is the source {source!r} itself: a repeated run would read its own "
                "outcome; write to another file"
            )


def _locked_part(part: Path, target: str) -> BinaryIO:
    for _ in range(_PART_TRIES):
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"cannot write {target!r}: no folder {str(part.parent)!r}. Create it first."
            ) from None
        output = os.fdopen(descriptor, "w+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            output.close()
            break
        # The lock's holder before may have renamed or removed the file that was opened here: then again.
        if part.exists() and os.path.samestat(os.fstat(descriptor), os.stat(part)):
            output.truncate(0)
            return output
        output.close()
    raise BlockingIOError(
        f"{target!r} is being written by another job: give each job its own target, or wait for that one"
    )


def _check_text(path: str) -> None:
    if not path or "\0" in path:
        raise ValueError(
            f"path {path!r} is {'empty' if not path else 'not a file name (NUL byte)'}: pass a file's name"
        )


def _check_readable(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path!r} is a folder: this task takes one regular file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path!r} is a {_kind(mode)}, not a regular file: reading it could block the worker")
    # Root may open such a file all the same, but its owner says that it is not for reading, as of lock files.
    if not mode & 0o444:
        raise PermissionError(
            f"{path!r} has mode {stat.S_IMODE(mode):04o}, nobody may read it: chmod it if that is wrong"
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def _missing(path: str) -> str:
    if os.path.isabs(path):
        return f"no file {path!r}: check the name, or whether it was removed after the job was submitted"
    return f"no file {path!r} in {os.getcwd()!r}, the worker's folder: pass an absolute path, not a relative one"
