"""Taking a namespace into possession: state directory, instance lock, segment new or found again."""

from __future__ import annotations

import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shmq import clock, probes
from shmq.config.model import Config
from shmq.errors import AlreadyRunning, ConfigError, IncompatibleSegment, NotRunning
from shmq.memory import doorbell, locks
from shmq.memory.layout import GROUP_CONTROL, PRODUCER, WORD, WORKER, WORKER_DEAD, WORKER_FREE, Shape
from shmq.memory.segment import SHM, Segment, attach, create, remove_unfinished, segment_name, unlink
from shmq.refusal import told
from shmq.supervisor.pools.rows import Rows
from shmq.supervisor.pools.worker import STOPPED
from shmq.transport.states import IS_UNDER_WAY, slots_where
from shmq.transport.table import FIRST_FREE, GENERATION_SHIFT, QUEUED, REQUEUED, SCHEDULED, STATE

_log = logging.getLogger("shmq.supervisor")
_PROVE_S = 10.0
_MOST = (1 << 63) - 1
_WAITING = (QUEUED, REQUEUED, SCHEDULED)


def state_dir(config: Config) -> Path:
    """The namespace's folder below the configured (or XDG) state directory."""
    if config.supervisor.state_dir is not None:
        base = Path(config.supervisor.state_dir).expanduser()
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "shmq"
    return base.absolute() / config.namespace


def prepare(folder: Path) -> None:
    """Make the state directory private, or refuse one that is not ours alone or cannot be written."""
    with told(f"the state directory {folder} cannot be made (set state_dir or XDG_STATE_HOME)"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise ConfigError(
            f"state directory {folder} must be a folder of this user with mode 0700, "
            f"it is mode {stat.S_IMODE(info.st_mode):04o} of uid {info.st_uid}; fix it or set state_dir"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"state directory {folder} cannot be written; is it mounted read-only? Or set state_dir")


def lock(folder: Path, namespace: str) -> locks.LockFile:
    """The instance lock. Raises AlreadyRunning, naming the holder."""
    with told(f"the lock file {folder / 'lock'} cannot be used"):
        lock_file = locks.open_once(folder / "lock", create=True)
        is_ours = lock_file.try_acquire(locks.SUPERVISOR)
    if not is_ours:
        raise AlreadyRunning(
            f"namespace {namespace!r} is served by the supervisor with pid "
            f"{lock_file.holder(locks.SUPERVISOR)}.\n"
            "Stop it with `shmq stop`, or choose another namespace."
        )
    return lock_file


def shape_of(config: Config) -> Shape:
    """The segment's shape for a configuration."""
    memory = config.memory
    return Shape(
        groups=len(config.groups), producers=memory.max_producers,
        slots_per_producer=memory.slots_per_producer,
        slot_bytes=memory.slot_bytes, workers=memory.max_workers,
        units=memory.block_budget_bytes // memory.block_unit_bytes, unit_bytes=memory.block_unit_bytes,
        arenas=memory.arenas,
    )  # fmt: skip


def open_segment(config: Config, folder: Path, lock_file: locks.LockFile) -> Segment:
    """Find the namespace's segment again, or make it.

    Raises:
        AlreadyRunning: the supervisor of another state directory serves it.
        IncompatibleSegment: another layout or shape, with jobs left in it.
        NoSpace: it does not fit.
    """
    name, shape = segment_name(config.namespace), shape_of(config)
    remove_unfinished(name)
    if not (SHM / name).exists() and _aside(name).exists():  # killed in _retire, before the jobs were counted
        _aside(name).rename(SHM / name)
    try:
        segment = attach(name)
        _refuse_if_served(segment, folder)
    except NotRunning:
        segment = _create(config, name, shape, folder)
        _remove_stray_bells(segment)  # of one whose name was removed: nothing else leads to them
        return segment
    if segment.shape == shape and segment.group_names() == list(config.groups):
        _take_back(segment, folder, config, lock_file)
        return segment
    for index, row in enumerate(segment.rows("worker_rows")):
        if row[WORKER["state"]] != WORKER_FREE:
            _prove_dead(segment, index, row, lock_file)
    _retire(segment, name, folder, lock_file)
    return _create(config, name, shape, folder)


def _refuse_if_served(segment: Segment, folder: Path) -> None:
    """The lock did not tell: it lies in another state directory, or was removed together with this one."""
    pid = segment.header("supervisor_pid")
    if is_process_of(segment, pid, segment.header("supervisor_ticks")):
        raise AlreadyRunning(
            f"{segment.path} is served by the supervisor with pid {pid}, whose state directory is "
            f"{segment.state_dir}; this one's is {folder}.\n"
            f"Start both with the same XDG_STATE_HOME or state_dir, or choose another namespace. If its state "
            f"directory was removed while it ran, stop it with `kill {pid}`."
        )


def _create(config: Config, name: str, shape: Shape, folder: Path) -> Segment:
    segment = create(
        name, shape, groups=list(config.groups), state_dir=folder, max_attempts=config.supervisor.max_attempts
    )
    segment.view("words")[:] = memoryview(FIRST_FREE.to_bytes(8, "little") * shape.slots).cast(WORD)
    return segment


def _aside(name: str) -> Path:
    return SHM / f"{name}.old"


def _retire(segment: Segment, name: str, folder: Path, lock_file: locks.LockFile) -> None:
    """Take the name from a segment of another configuration, if no job is left in it.

    The name goes first, then the jobs are counted: a producer that published meanwhile is not forgotten.
    """
    aside = _aside(name)
    segment.path.rename(aside)
    left = jobs_left(segment)
    if left:
        aside.rename(segment.path)
        raise IncompatibleSegment(
            f"{segment.path} holds {left} unfinished jobs and was made for another configuration "
            f"({segment.shape}, groups {', '.join(segment.group_names())}).\n"
            "Start the old configuration, `shmq drain`, then start this one."
        )
    segment.set_header("detached", 1)
    remove_bells(segment, folder)
    aside.unlink()
    holders = {lock_file.holder(locks.producer_byte(row)) for row in range(segment.shape.producers)} - {0}
    if holders:
        _log.warning("producers with pids %s use the old segment: they must connect again", sorted(holders))
    _log.info("the segment of another configuration is empty: replaced")


def _take_back(segment: Segment, folder: Path, config: Config, lock_file: locks.LockFile) -> None:
    """Over a surviving segment: new epoch, old workers proven dead, all their rows handed to recovery."""
    segment.set_header("epoch", (segment.header("epoch") + 1) & _MOST)
    segment.set_header("draining", 0)
    segment.set_header("detached", 0)
    segment.set_header("max_attempts", config.supervisor.max_attempts)
    segment.set_text("state_dir", str(folder))
    sleeping, rows = segment.view("sleeping"), Rows(segment)
    for index, row in enumerate(segment.rows("worker_rows")):
        if row[WORKER["state"]] not in {WORKER_FREE, WORKER_DEAD}:
            _prove_dead(segment, index, row, lock_file)
            row[WORKER["reason"]] = STOPPED  # it died with its supervisor: no job's fault
            row[WORKER["culprit"]] = row[WORKER["wants_bytes"]] = 0
            rows.keep_counters(index)
            row[WORKER["state"]] = WORKER_DEAD
    sleeping[:] = bytes(len(sleeping))  # nobody sleeps: a ring would go to the dead
    _remove_stray_bells(segment)
    left = jobs_left(segment)
    _log.info(
        "found the segment of a former supervisor: epoch %d, %d unfinished jobs",
        segment.header("epoch"),
        left,
    )
    for group, control in enumerate(segment.rows("group_control")):
        if control[GROUP_CONTROL["paused"]]:
            _log.info("group %s is still paused", segment.text("group_names", group))


def _prove_dead(segment: Segment, index: int, row: memoryview, lock_file: locks.LockFile) -> None:
    """Kill a former supervisor's worker. Dead: no process with its pid and start ticks, its byte free."""
    pid, ticks = row[WORKER["pid"]], row[WORKER["ticks"]]
    byte = locks.worker_byte(index)
    give_up = time.monotonic() + _PROVE_S
    while time.monotonic() < give_up:
        holder = lock_file.holder(byte)
        is_alive = is_process_of(segment, pid, ticks)
        if not holder and not is_alive:
            return
        if holder:
            kill_proven(holder, lambda pid: lock_file.holder(byte) == pid)
        if is_alive:
            kill_proven(pid, lambda pid: is_process_of(segment, pid, ticks))
        time.sleep(0.002)
    raise AlreadyRunning(
        f"worker {index} (pid {pid or lock_file.holder(byte)}) of a former supervisor does not die.\n"
        "Kill it by hand, then start again."
    )


def is_process_of(segment: Segment, pid: int, ticks: int) -> bool:
    """Is there a living process with this pid and start, and does it map the segment?

    The numbers come from a record that may hold anything: only the mapping makes the process one of ours.
    """
    if not 0 < pid < 2**31 or pid == os.getpid() or clock.process_state(pid) in {"", "Z", "X"}:
        return False
    return clock.start_ticks(pid) == ticks and probes.is_mapping(pid, str(segment.path))


def kill_proven(pid: int, is_it: Callable[[int], bool]) -> None:
    """SIGKILL a process that is not our child. `is_it` is asked once the pidfd is open: the pid cannot change
    hands after that.
    """
    if pid <= 0 or pid == os.getpid():
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_it(pid):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def jobs_left(segment: Segment) -> int:
    """Jobs that have not ended, without those that were cancelled while they waited: they never run."""
    return sum(1 for _ in _unfinished(segment))


def is_job_left(segment: Segment) -> bool:
    """Is there one? Most often the first that is looked at closely tells."""
    return any(True for _ in _unfinished(segment))


def _unfinished(segment: Segment) -> Iterator[int]:
    words, cancels = segment.view("words"), segment.view("cancels")
    for slot in slots_where(segment, IS_UNDER_WAY, 0, segment.shape.slots):
        cancelled = cancels[slot]  # before the word: who claims a job that still waits then sees that it is cancelled
        word = words[slot]
        if word & STATE not in _WAITING or cancelled != word >> GENERATION_SHIFT:
            yield slot  # one that has ended since counts: it may have submitted another


def remove_if_unused(segment: Segment, folder: Path, lock_file: locks.LockFile) -> bool:
    """Remove the segment's name when no job and no producer is left; True when removed.

    All producer bytes are taken first: a producer that registers meanwhile finds the name gone.
    """
    if is_job_left(segment):
        return False
    taken: list[int] = []
    try:
        for row, words in enumerate(segment.rows("producer_rows")):
            if is_process_of(segment, words[PRODUCER["pid"]], words[PRODUCER["ticks"]]):
                return False  # also one that lost its byte by closing the lock file
            if not lock_file.try_acquire(locks.producer_byte(row)):
                return False
            taken.append(row)
        if is_job_left(segment):
            return False
        segment.set_header("detached", 1)
        remove_bells(segment, folder)
        unlink(segment.path.name)
        return True
    finally:
        for row in taken:
            lock_file.release(locks.producer_byte(row))


def remove_bells(segment: Segment, folder: Path) -> None:
    """All doorbells of a segment that nobody is to use any more: semaphores, and the FIFOs of the state directory.

    Found by their names, not by the rows: what a row says may have been overwritten.
    """
    for name in doorbell.names_of(segment.path.name):
        doorbell.unlink(name)
    for fifo in folder.glob("*.bell"):
        if fifo.is_fifo():
            fifo.unlink(missing_ok=True)


def _remove_stray_bells(segment: Segment) -> None:
    """Semaphores that no producer's row names: of dead workers, of rows that were overwritten, of a lost segment.

    Caller must: have proven the former workers dead. The names are listed before the rows are read: a producer
    names its bell before it makes it.
    """
    existing = set(doorbell.names_of(segment.path.name))
    for name in existing - {segment.text("producer_bells", row) for row in range(segment.shape.producers)}:
        doorbell.unlink(name)
