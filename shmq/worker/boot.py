"""The first code of a worker after its fork: signals, membership, then the loop.

It never returns: a worker ends through `os._exit`, so that nothing of the fork server's
(exit handlers, buffered output) runs twice.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from shmq import kernel
from shmq.clock import now_ns, start_ticks
from shmq.config.model import Group
from shmq.memory import locks
from shmq.memory.blocks import WORKER_PIN, BlockPool
from shmq.memory.doorbell import SemaphoreBell
from shmq.memory.fence import new_fence
from shmq.memory.layout import WORKER, WORKER_LIVE, WORKER_STARTING
from shmq.tasks import current
from shmq.tasks.registry import load
from shmq.transport.claim import Claimer
from shmq.worker.calls.generating import Generating
from shmq.worker.calls.output import redirect
from shmq.worker.execution import Executor
from shmq.worker.limiting import TaskLimits
from shmq.worker.loop import Loop
from shmq.worker.seat import Seat
from shmq.worker.timer import Timer
from shmq.worker.watching import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from shmq.memory.segment import Segment
    from shmq.tasks.task import Task
    from shmq.worker.concurrent.loop import ConcurrentLoop

_log = logging.getLogger("shmq.worker")
EXIT_DRAINED, EXIT_BROKEN, EXIT_ORPHAN = 0, 70, 71
_DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


@dataclass(frozen=True)
class Order:
    """All that a worker must know to begin."""

    segment: Segment
    lock_file: locks.LockFile
    former_names: dict[int, str]
    index: int
    serial: int
    group: int
    group_name: str
    settings: Group
    supervisor_pid: int
    task_output: str
    log_format: str
    late_modules: tuple[str, ...]
    folder: Path | None
    namespace: str
    limit_patterns: tuple[str, ...] = ()
    registry: int = 0


def run(order: Order, tasks: dict[int, Task[Any, Any]]) -> None:
    """Be a worker until drained. Never returns."""
    status = EXIT_BROKEN
    try:
        status = _run(order, tasks)
    except BaseException:
        _log.exception("worker %s/%d broke", order.group_name, order.index)
    finally:
        try:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _run(order: Order, tasks: dict[int, Task[Any, Any]]) -> int:
    _reset_signals()
    os.setpgid(0, 0)
    if not kernel.die_with_parent(order.supervisor_pid):
        return EXIT_ORPHAN
    kernel.be_punctual()
    _name_process(order)
    kernel.prefer_for_oom(order.settings.oom_score_adj)
    segment = order.segment
    lock_file = order.lock_file
    lock_file.forget()  # inherited from the fork server: the bytes stayed there
    seat = Seat(segment, order.index, order.group, order.group_name, order.settings)
    seat.registry = order.registry
    if not _join(seat, lock_file, order.serial):
        return EXIT_ORPHAN
    writer = redirect(order.task_output, seat, order.log_format)
    if order.late_modules:  # modules that start threads at import must not be imported before a fork
        tasks = {**tasks, **load(list(order.late_modules), order.folder)}
    os.environ["SHMQ_NAMESPACE"] = order.namespace
    current.set_worker(seat)
    _reseed()
    seat.names = order.former_names | {key: task.name for key, task in tasks.items()}
    _serve(seat, lock_file, tasks, order.limit_patterns)
    _close_clients()
    if writer is not None:
        writer.finish()
    return EXIT_DRAINED


def _serve(seat: Seat, lock_file: locks.LockFile, tasks: dict[int, Task[Any, Any]], patterns: tuple[str, ...]) -> None:
    fence = new_fence()
    timer = Timer(seat, fence)
    claimer, executor = _equip(seat, lock_file, tasks, lambda: timer.arm(0.001))
    os.register_at_fork(after_in_child=seat.disown)
    limits = TaskLimits(seat, lock_file, patterns, tasks)
    loop: Loop | ConcurrentLoop
    if seat.settings.concurrency == 1:
        bell = SemaphoreBell(seat.segment.text("worker_bells", seat.index))
        executor.calling.generating = Generating(seat, executor.outlets, timer, bell)
        loop = Loop(seat, claimer, executor, timer, bell, fence, limits)
    else:
        from shmq.worker.concurrent.loop import ConcurrentLoop, concurrent_bell

        loop = ConcurrentLoop(seat, claimer, executor, concurrent_bell(seat), fence, limits)

    def drain(_signal: int, _frame: FrameType | None) -> None:
        seat.is_draining = True

    signal.signal(signal.SIGTERM, drain)
    watching = Watching(loop, executor.accounts, seat, tasks)
    gc.collect()
    gc.freeze()
    seat.row[WORKER["state"]] = WORKER_LIVE
    seat.bells.notify_supervisor()
    loop.run()
    watching.close()


def _equip(
    seat: Seat, lock_file: locks.LockFile, tasks: dict[int, Task[Any, Any]], arm: Callable[[], None]
) -> tuple[Claimer, Executor]:
    """What finds the seat's jobs, and what runs them."""
    blocks = BlockPool(seat.segment, lock_file, WORKER_PIN, seat.index)
    claimer = Claimer(seat.segment, lock_file, seat.group, seat.index)
    return claimer, Executor(seat, tasks, blocks, arm, claimer.has_work)


def rehearse(segment: Segment, lock_file: locks.LockFile) -> None:
    """Equip a worker without tasks and have it look for work, once, on a row that it does not take; then drop it.

    The interpreter notes in memory what it has looked up and how often code ran. Noted before the fork, that is
    memory which all workers share; after it, each of them copies the pages: 0.2 MiB of 4.
    """
    seat = Seat(segment, 0, 0, "", Group())
    claimer, _ = _equip(seat, lock_file, {}, lambda: None)
    claimer.lanes_with_work()
    claimer.is_paused()


def _reset_signals() -> None:
    """Whatever the fork server had installed is not ours. Ctrl-C reaches the whole group: ignore it."""
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _join(seat: Seat, lock_file: locks.LockFile, serial: int) -> bool:
    """Hold the row's byte: the proof of life. False when the row is not ours to start in."""
    row = seat.row
    if row[WORKER["state"]] != WORKER_STARTING or row[WORKER["bell_serial"]] != serial:
        return False
    if not lock_file.try_acquire(locks.worker_byte(seat.index)):
        return False
    row[WORKER["ticks"]] = start_ticks(os.getpid())  # before the pid: a pid without ticks proves nothing
    if row[WORKER["state"]] != WORKER_STARTING or row[WORKER["bell_serial"]] != serial:
        return False  # given to another worker while we waited for the byte
    row[WORKER["pid"]] = os.getpid()
    row[WORKER["started_ns"]] = now_ns()
    row[WORKER["heartbeat_ns"]] = now_ns()
    return True


def _name_process(order: Order) -> None:
    import setproctitle

    setproctitle.setproctitle(f"shmq: worker {order.group_name} {order.index}")


def _close_clients() -> None:
    """Give back the producer rows of tasks that submitted: no exit handler runs in a worker."""
    client = sys.modules.get("shmq.client.client")  # a layer beside this one: never imported from here
    if client is not None:
        client.close_all()


def _reseed() -> None:
    """Forked siblings must not draw the same random numbers. The module `random` has seen to itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
