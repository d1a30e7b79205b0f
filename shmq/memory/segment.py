"""The one shared-memory segment: made by the supervisor, attached by everybody, checked by both.

Creating goes through `multiprocessing.shared_memory` with its resource tracker off (a tracked
segment dies with the first client that exits); attaching goes by path, because
`SharedMemory(name)` unlinks other people's segments when its mmap fails.
"""

from __future__ import annotations

import errno
import mmap
import os
import platform
import re
import stat
import sys
import threading
import warnings
import weakref
from functools import cached_property
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Literal, cast

from shmq import clock, probes
from shmq.errors import IncompatibleSegment, NoSpace, NotRunning
from shmq.memory.layout import FIELD, HEADER, LAYOUT_VERSION, MAGIC, PAGE, PATH_BYTES, WORD, Layout, Shape, shape_words
from shmq.refusal import refused, told

SHM = Path("/dev/shm")
_REFUSALS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS})  # not the segment's fault
_tracker_lock = threading.Lock()


def segment_name(namespace: str) -> str:
    """Name below /dev/shm; carries the uid so that users never meet."""
    return f"shmq-{os.geteuid()}-{namespace}"


class Segment:
    """An attached segment: a mapping and one flat memoryview per field.

    Words are read and written as `view[i]`, one aligned machine move each; `struct` only
    touches bytes that are not published yet.
    """

    def __init__(self, fd: int, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self.shape = layout.shape
        self.fd = fd
        self._close_fd = weakref.finalize(self, os.close, fd)  # also of one that was closed while arrays lived on
        self._close_fd.atexit = False
        self.map = mmap.mmap(fd, layout.total_bytes)
        self._whole = memoryview(self.map)
        self._views: dict[str, memoryview] = {}

    def view(self, name: str) -> memoryview:
        """The field as a flat memoryview of its items. The same object each time."""
        view = self._views.get(name)
        if view is None:
            at = self.layout.offsets[name]
            view = self._views[name] = self._whole[at : at + self.layout.bytes_of(name)].cast(
                cast("Literal['L', 'I', 'B']", FIELD[name].code)
            )
        return view

    def halves(self, name: str) -> tuple[memoryview, memoryview]:
        """The lower and the upper 32 bits of a field's words, each with the index of its word.

        What fits into 30 bits costs Python half as much to read, to store and to compare.
        """
        both = self.view(name).cast("B").cast("I")
        return both[0::2], both[1::2]

    def slot_words(self, number: int) -> memoryview:
        """That word of each slot's payload, by slot: an index costs half of the arithmetic."""
        return self.view("payload").cast(WORD)[number :: self.shape.slot_bytes // 8]

    def slot_halves(self, number: int) -> tuple[memoryview, memoryview]:
        """The lower and the upper 32 bits of that word of each slot's payload, by slot."""
        both, stride = self.view("payload").cast("I"), self.shape.slot_bytes // 4
        return both[2 * number :: stride], both[2 * number + 1 :: stride]

    def rows(self, name: str) -> list[memoryview]:
        """One memoryview per row of a two-dimensional field."""
        flat, width = self.view(name), self.layout.extent(name)[1]
        return [flat[i : i + width] for i in range(0, len(flat), width)]

    def header(self, word: str) -> int:
        """A word of the header."""
        return int(self.view("header")[HEADER[word]])

    def set_header(self, word: str, value: int) -> None:
        """Caller must: be the supervisor (or the creator, before publishing)."""
        self.view("header")[HEADER[word]] = value

    def text(self, name: str, index: int = 0) -> str:
        """Row `index` of a byte field as text, up to its first NUL."""
        width = self.layout.extent(name)[-1]
        raw = bytes(self.view(name)[index * width : (index + 1) * width])
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def set_text(self, name: str, value: str, index: int = 0) -> None:
        """Write text into row `index` of a byte field, cut to fit, NUL-padded."""
        width = self.layout.extent(name)[-1]
        raw = value.encode()[: width - 1].ljust(width, b"\0")
        self.view(name)[index * width : (index + 1) * width] = raw

    def group_names(self) -> list[str]:
        """Names of the groups, by index."""
        return [self.text("group_names", g) for g in range(self.shape.groups)]

    @cached_property
    def state_dir(self) -> Path:
        """Folder of the lock file, sockets, FIFOs, dead letters and learned patterns. Written once, by the creator."""
        return Path(self.text("state_dir"))

    def is_linked(self) -> bool:
        """False once somebody removed the segment's name (RemoveIPC, a cleaner, `rm`)."""
        return os.fstat(self.fd).st_nlink > 0

    def close(self) -> None:
        """Unmap. Arrays that still point into the segment keep the mapping alive until they go."""
        self._close_fd()  # the mapping has a descriptor of its own
        try:
            for view in reversed(list(self._views.values())):
                view.release()
            self._views.clear()
            self._whole.release()
            self.map.close()
        except BufferError:  # a user's zero-copy array lives on: the mapping must outlive it
            self._views.clear()


def create(
    name: str, shape: Shape, *, groups: list[str], state_dir: Path, max_attempts: int, epoch: int = 1
) -> Segment:
    """Make, reserve and publish a segment, then attach it.

    Raises:
        NoSpace: /dev/shm or the memory cgroup cannot hold it (with the missing bytes).
        SystemRefused: nothing can be made in /dev/shm.
    """
    refuse_platform()
    layout = Layout(shape)
    if len(str(state_dir).encode()) >= PATH_BYTES:
        raise NoSpace(f"state directory {state_dir} is longer than {PATH_BYTES - 1} bytes; choose a shorter one")
    refuse_if_too_small(layout.total_bytes)
    temporary = f"{name}.{os.urandom(4).hex()}"
    with told(f"the segment cannot be made in {SHM}"):
        _untracked(temporary, layout.total_bytes).close()
    path = SHM / temporary
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, layout.total_bytes)
        except OSError as error:
            os.close(fd)
            raise NoSpace(_missing(layout.total_bytes, probes.shm_free_bytes(), "/dev/shm")) from error
        segment = Segment(fd, path, layout)
        _fill_header(segment, groups, state_dir, max_attempts, epoch)
        # SYNC POINT: segment-visible — every header word is written before the final name exists
        path.rename(SHM / name)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    segment.path = SHM / name
    return segment


def _fill_header(segment: Segment, groups: list[str], state_dir: Path, max_attempts: int, epoch: int) -> None:
    for word, value in (
        ("version", LAYOUT_VERSION),
        ("total_bytes", segment.layout.total_bytes),
        ("boot", clock.boot_id()),
        ("pid_namespace", clock.pid_namespace()),
        ("time_namespace", clock.time_namespace()),
        ("epoch", epoch),
        ("created_ns", clock.now_ns()),
        ("max_attempts", max_attempts),
        *shape_words(segment.shape),
    ):
        segment.set_header(word, value)
    segment.set_text("state_dir", str(state_dir))
    for g, group in enumerate(groups):
        segment.set_text("group_names", group, g)
    segment.set_header("magic", MAGIC)


def _untracked(name: str, size: int) -> shared_memory.SharedMemory:
    """A new SharedMemory that no resource tracker will ever unlink."""
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name=name, create=True, size=size, track=False)
    with _tracker_lock:  # before 3.13 the only way is to make registering a no-op meanwhile
        register = resource_tracker.register
        resource_tracker.register = lambda *_: None
        try:
            return shared_memory.SharedMemory(name=name, create=True, size=size)
        finally:
            resource_tracker.register = register


def refuse_platform() -> None:
    """Raise IncompatibleSegment on a system whose memory model shmq has not been made for."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in {"x86_64", "aarch64"}:
        raise IncompatibleSegment(
            f"shmq runs on Linux on x86-64 (and, with a warning, aarch64); this is {system} on {machine}.\n"
            "Its shared words rely on the memory order of these processors and on Linux record locks."
        )
    if machine == "aarch64":
        warnings.warn(
            "shmq has not been run on ARM hardware by its makers: run `shmq check --litmus` here before you rely on it",
            RuntimeWarning, stacklevel=3,
        )  # fmt: skip


def attach(name: str) -> Segment:
    """Attach an existing segment after checking that it is ours and of this layout.

    Raises:
        NotRunning: there is no such segment.
        IncompatibleSegment: it must not be used, with the reason.
    """
    refuse_platform()
    path = SHM / name
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotRunning(
            f"no shmq segment {path}: no supervisor has been started for this namespace.\n"
            "Start one with `shmq supervise config.toml` (the namespace is set in the config or SHMQ_NAMESPACE)."
        ) from None
    except OSError as error:
        if error.errno in _REFUSALS:
            raise refused(f"cannot attach {path}", error) from error
        raise IncompatibleSegment(f"cannot open {path}: {error.strerror}; it is not a segment of this user") from error
    try:
        _check_file(fd, path)
        with told(f"cannot map {path}"):
            return Segment(fd, path, Layout(_read_shape(fd, path)))
    except BaseException:
        os.close(fd)
        raise


def _check_file(fd: int, path: Path) -> None:
    info = os.fstat(fd)
    faults = [
        (not stat.S_ISREG(info.st_mode), "not a regular file"),
        (info.st_uid != os.geteuid(), f"owned by uid {info.st_uid}, this process is uid {os.geteuid()}"),
        (info.st_mode & 0o077 != 0, f"open to others (mode {stat.S_IMODE(info.st_mode):04o})"),
        (info.st_nlink != 1, f"{info.st_nlink} links"),
        (info.st_size < PAGE, f"only {info.st_size} bytes"),
    ]
    for is_fault, why in faults:
        if is_fault:
            raise IncompatibleSegment(f"{path} is not a usable shmq segment: {why}. Remove it if nothing uses it.")


def _read_shape(fd: int, path: Path) -> Shape:
    raw = memoryview(os.pread(fd, 512, 0)).cast("Q")
    word = {name: raw[i] for name, i in HEADER.items()}
    if word["magic"] != MAGIC:
        raise IncompatibleSegment(f"{path} is not a shmq segment (magic {word['magic']:#x}); remove it if unused")
    if word["version"] != LAYOUT_VERSION:
        raise IncompatibleSegment(
            f"{path} has layout version {word['version']}, this shmq uses {LAYOUT_VERSION}.\n"
            "Drain it with the shmq that made it (`shmq drain`), then start this one."
        )
    if word["boot"] != clock.boot_id() or word["pid_namespace"] != clock.pid_namespace():
        raise IncompatibleSegment(
            f"{path} belongs to another pid namespace or boot (container?): pids there name other processes.\n"
            "Run producers in the supervisor's pid namespace. If that container or boot is over, what it left in "
            f"there is lost: rm {path}"
        )
    if word["time_namespace"] != clock.time_namespace():
        raise IncompatibleSegment(
            f"{path} belongs to another time namespace: deadlines there count from another moment.\n"
            "Run producers in the supervisor's time namespace."
        )
    shape = Shape(**{name: word[name] for name in Shape.__dataclass_fields__})
    bounds = {"groups": 64, "producers": 256, "workers": 1000, "slots_per_producer": 65536, "arenas": 8}
    wrong = [f"{name}={word[name]}" for name, most in bounds.items() if not 1 <= word[name] <= most]
    if shape.slots_per_producer & (shape.slots_per_producer - 1):  # positions are masked with it
        wrong.append(f"slots_per_producer={shape.slots_per_producer}")
    if wrong or not 256 <= shape.slot_bytes <= 65536 or shape.units > 2**24 or shape.unit_bytes > 2**24:
        raise IncompatibleSegment(
            f"{path} has a damaged header ({', '.join(wrong) or 'sizes'}); restart the supervisor"
        )
    total = Layout(shape).total_bytes
    if word["total_bytes"] != total or os.fstat(fd).st_size != total:
        raise IncompatibleSegment(
            f"{path} is {os.fstat(fd).st_size} bytes, its header says {word['total_bytes']}, its counts {total}: "
            f"cut or damaged.\nSomebody wrote to it who should not. Stop what still uses it, then remove it: rm {path}"
        )
    return shape


def remove_unfinished(name: str) -> None:
    """Remove segments of the name whose creator was killed (out of memory, say) before they were published.

    Caller must: hold the supervisor's byte, so that nobody is creating one.
    """
    is_unfinished = re.compile(rf"{re.escape(name)}\.[0-9a-f]{{8}}").fullmatch
    for left in filter(is_unfinished, os.listdir(SHM)):
        unlink(left)


def unlink(name: str) -> None:
    """Remove the segment's name; attached processes keep their mapping."""
    (SHM / name).unlink(missing_ok=True)


def refuse_if_too_small(needed_bytes: int) -> None:
    """Raise NoSpace when /dev/shm or the memory cgroup lacks room: later it would be SIGBUS or OOM."""
    for free, where in (
        (probes.shm_free_bytes(), "/dev/shm"),
        (probes.cgroup_free_bytes(), "the memory cgroup"),
    ):
        if free is not None and free < needed_bytes:
            raise NoSpace(_missing(needed_bytes, free, where))


def _missing(needed: int, free: int | None, where: str) -> str:
    free = free or 0
    return (
        f"the segment needs {needed} bytes, {where} has {free} free: {max(needed - free, 0)} bytes missing.\n"
        "Lower [memory] max_producers, slots_per_producer or block_budget_bytes, or give it more "
        "(docker run --shm-size, mount -o remount,size=... /dev/shm)."
    )
