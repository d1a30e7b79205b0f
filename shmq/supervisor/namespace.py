"""Taking a namespace into possession: state directory, instance lock, segment new or found again."""

from __future__ import annotations

import logging
import os
import signal
import stat
import time
from pathlib import Path

from shmq import clock
from shmq.config.model import Config
from shmq.errors import AlreadyRunning, ConfigError, IncompatibleSegment, NotRunning
from shmq.memory import locks
from shmq.memory.layout import WORKER, WORKER_DEAD, WORKER_FREE, Shape
from shmq.memory.segment import Segment, attach, create, segment_name, unlink
from shmq.transport.table import FIRST_FREE, FREE, STATE

_log = logging.getLogger("shmq.supervisor")
_PROVE_S = 10.0


def state_dir(config: Config) -> Path:
    """The namespace's folder below the configured (or XDG) state directory."""
    if config.supervisor.state_dir is not None:
        base = Path(config.supervisor.state_dir).expanduser()
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "shmq"
    return base.absolute() / config.namespace


def prepare(folder: Path) -> None:
    """Make the state directory private, or refuse one that is not ours alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise ConfigError(
            f"state directory {folder} must be a folder of this user with mode 0700, "
            f"it is mode {stat.S_IMODE(info.st_mode):04o} of uid {info.st_uid}; fix it or set state_dir"
        )


def lock(folder: Path, namespace: str) -> locks.LockFile:
    """The instance lock. Raises AlreadyRunning, naming the holder."""
    lock_file = locks.open_once(folder / "lock")
    if not lock_file.try_acquire(locks.SUPERVISOR):
        raise AlreadyRunning(
            f"namespace {namespace!r} is served by the supervisor with pid {lock_file.holder(locks.SUPERVISOR)}.\n"
            "Stop it with `shmq stop`, or choose another namespace."
        )
    return lock_file


def shape_of(config: Config) -> Shape:
    """The segment's shape for a configuration."""
    memory = config.memory
    return Shape(
        groups=len(config.groups), producers=memory.max_producers, slots_per_producer=memory.slots_per_producer,
        slot_bytes=memory.slot_bytes, workers=memory.max_workers,
        units=memory.block_budget_bytes // memory.block_unit_bytes, unit_bytes=memory.block_unit_bytes,
        arenas=memory.arenas,
    )  # fmt: skip


def open_segment(config: Config, folder: Path, lock_file: locks.LockFile) -> Segment:
    """Find the namespace's segment again, or make it.

    Raises:
        IncompatibleSegment: another layout or shape, with jobs left in it.
        NoSpace: it does not fit.
    """
    name, shape = segment_name(config.namespace), shape_of(config)
    try:
        segment = attach(name)
    except NotRunning:
        return _create(config, name, shape, folder)
    if segment.shape != shape or segment.group_names() != list(config.groups):
        left = jobs_left(segment)
        if left:
            raise IncompatibleSegment(
                f"{segment.path} holds {left} unfinished jobs and was made for another configuration "
                f"({segment.shape}, groups {', '.join(segment.group_names())}).\n"
                "Start the old configuration, `shmq drain`, then start this one."
            )
        _log.info("the segment of another configuration is empty: replaced")
        segment.set_header("detached", 1)
        unlink(name)
        return _create(config, name, shape, folder)
    _take_back(segment, folder, config, lock_file)
    return segment


def _create(config: Config, name: str, shape: Shape, folder: Path) -> Segment:
    segment = create(
        name, shape, groups=list(config.groups), state_dir=folder, max_attempts=config.supervisor.max_attempts
    )
    segment.view("words")[:] = memoryview(FIRST_FREE.to_bytes(8, "little") * shape.slots).cast("Q")
    return segment


def _take_back(segment: Segment, folder: Path, config: Config, lock_file: locks.LockFile) -> None:
    """Over a surviving segment: new epoch, old workers proven dead, all their rows handed to recovery."""
    segment.set_header("epoch", segment.header("epoch") + 1)
    segment.set_header("draining", 0)
    segment.set_header("max_attempts", config.supervisor.max_attempts)
    segment.set_text("state_dir", str(folder))
    for index, row in enumerate(segment.rows("worker_rows")):
        if row[WORKER["state"]] != WORKER_FREE:
            _prove_dead(index, row, lock_file)
            row[WORKER["state"]] = WORKER_DEAD
    left = jobs_left(segment)
    _log.info("found the segment of a former supervisor: epoch %d, %d unfinished jobs", segment.header("epoch"), left)


def _prove_dead(index: int, row: memoryview, lock_file: locks.LockFile) -> None:
    """Kill a former supervisor's worker: dead is no process with its pid and start ticks, and its byte free."""
    pid, ticks = row[WORKER["pid"]], row[WORKER["ticks"]]
    byte = locks.worker_byte(index)
    give_up = time.monotonic() + _PROVE_S
    while time.monotonic() < give_up:
        holder = lock_file.holder(byte)
        is_alive = 0 < pid < 2**31 and clock.start_ticks(pid) == ticks and clock.process_state(pid) not in {"Z", "X"}
        if not holder and not is_alive:
            return
        for victim in {holder} | ({pid} if is_alive else set()):
            _kill(victim, byte, lock_file, is_proven=victim == pid and is_alive)
        time.sleep(0.002)
    raise AlreadyRunning(
        f"worker {index} (pid {pid or lock_file.holder(byte)}) of a former supervisor does not die.\n"
        "Kill it by hand, then start again."
    )


def _kill(pid: int, byte: int, lock_file: locks.LockFile, *, is_proven: bool) -> None:
    """SIGKILL by pidfd, only when the pid still names the lock's holder or the row's process."""
    if pid <= 0 or pid == os.getpid():
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_proven or lock_file.holder(byte) == pid:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def jobs_left(segment: Segment) -> int:
    """Jobs that are neither free nor ended."""
    from shmq.transport.table import DONE

    return sum(1 for word in segment.view("words").tolist() if word & STATE != FREE and word & STATE < DONE)


def remove_if_unused(segment: Segment, lock_file: locks.LockFile) -> bool:
    """Remove the segment's name when no job and no producer is left; True when removed.

    All producer bytes are taken first: a producer that registers meanwhile finds the name gone.
    """
    if jobs_left(segment):
        return False
    taken: list[int] = []
    try:
        for row in range(segment.shape.producers):
            if not lock_file.try_acquire(locks.producer_byte(row)):
                return False
            taken.append(row)
        segment.set_header("detached", 1)
        unlink(segment.path.name)
        return True
    finally:
        for row in taken:
            lock_file.release(locks.producer_byte(row))
