"""What is not a segment of this user and layout is refused with the reason, whatever it is."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmq.errors import IncompatibleSegment, NotRunning
from shmq.memory.layout import HEADER, LAYOUT_VERSION, Shape
from shmq.memory.segment import Segment, attach, create, segment_name, unlink

SHAPE = Shape(
    groups=1, producers=1, slots_per_producer=16, slot_bytes=256, workers=1, units=4, unit_bytes=4096, arenas=1
)


@pytest.fixture
def segment(namespace: str, tmp_path: Path) -> Iterator[Segment]:
    made = create(segment_name(namespace), SHAPE, groups=["computation"], state_dir=tmp_path, max_attempts=3)
    yield made
    made.close()
    unlink(made.path.name)


def test_a_sound_segment_is_attached(segment: Segment) -> None:
    attached = attach(segment.path.name)
    assert attached.shape == SHAPE
    attached.close()


def test_without_a_segment_the_message_says_how_to_start_one(namespace: str) -> None:
    with pytest.raises(NotRunning, match="shmq supervise"):
        attach(segment_name(namespace))


def _word(name: str, change: Callable[[int], int]) -> Callable[[Segment], None]:
    return lambda segment: segment.set_header(name, change(segment.header(name)))


DAMAGE = {
    "magic": (_word("magic", lambda w: w ^ 1), "not a shmq segment"),
    "an older version": (_word("version", lambda w: w - 1), f"this shmq uses {LAYOUT_VERSION}"),
    "a newer version": (_word("version", lambda w: w + 1), "drain"),
    "another boot": (_word("boot", lambda w: w ^ 1), "another pid namespace or boot"),
    "another pid namespace": (_word("pid_namespace", lambda w: w + 1), "another pid namespace or boot"),
    "a size of its own": (_word("total_bytes", lambda w: w + 4096), "cut or damaged"),
    "no groups": (_word("groups", lambda _: 0), "damaged header"),
    "too many slots": (_word("slots_per_producer", lambda _: 1 << 63), "damaged header"),
    "odd slots": (_word("slots_per_producer", lambda _: 15), "damaged"),
    "huge slots": (_word("slot_bytes", lambda _: 1 << 40), "damaged header"),
    "huge blocks": (_word("units", lambda _: 1 << 60), "damaged header"),
    "other permissions": (lambda s: s.path.chmod(0o644), "open to others"),
    "a second link": (lambda s: os.link(s.path, s.path.with_name(s.path.name + "-2")), "2 links"),
    "half its length": (lambda s: os.truncate(s.path, s.layout.total_bytes // 2), "cut or damaged"),
    "a few bytes": (lambda s: os.truncate(s.path, 100), "only 100 bytes"),
    "more bytes": (lambda s: os.truncate(s.path, s.layout.total_bytes + 4096), "cut or damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_segment_is_refused_for(segment: Segment, damage: str) -> None:
    change, reason = DAMAGE[damage]
    change(segment)
    try:
        with pytest.raises(IncompatibleSegment, match=reason):
            attach(segment.path.name)
    finally:
        segment.path.with_name(segment.path.name + "-2").unlink(missing_ok=True)


def test_no_header_word_makes_attaching_crash(segment: Segment) -> None:
    for field in HEADER:
        sound = segment.header(field)
        for value in (0, 1, 7, 2**31, 2**32, 2**63, 2**64 - 1):
            segment.set_header(field, value)
            with contextlib.suppress(IncompatibleSegment):
                attach(segment.path.name).close()
        segment.set_header(field, sound)
    attach(segment.path.name).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_segment_is_refused(segment: Segment) -> None:
    os.chown(segment.path, 12345, -1)
    with pytest.raises(IncompatibleSegment, match="uid 12345"):
        attach(segment.path.name)


def _symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


OTHERS: dict[str, Callable[[Path], object]] = {
    "a symlink": _symlink,
    "a dangling symlink": lambda path: path.symlink_to("/nowhere"),
    "a FIFO": lambda path: os.mkfifo(path, 0o600),
    "a folder": lambda path: path.mkdir(mode=0o700),
    "an empty file": lambda path: path.touch(0o600),
    "zeroes": lambda path: (path.write_bytes(bytes(8192)), path.chmod(0o600)),
    "noise": lambda path: (path.write_bytes(os.urandom(8192)), path.chmod(0o600)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_something_else_under_the_segments_name_is_refused(namespace: str, kind: str) -> None:
    path = Path("/dev/shm", segment_name(namespace))
    OTHERS[kind](path)
    try:
        with pytest.raises(IncompatibleSegment):
            attach(path.name)
        assert path.is_symlink() or path.exists(), "refusing must remove nothing"
    finally:
        if stat.S_ISDIR(path.lstat().st_mode):
            path.rmdir()
        else:
            path.unlink()
