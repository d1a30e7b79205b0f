"""The fork server: imports the task modules once, freezes them, forks workers in milliseconds.

It is forked from the supervisor, which never imports user code; replacing it is how code is
reloaded. Each worker is forked twice: the middle process reports the worker's pid and ends, so that
the worker is re-parented to the supervisor (its subreaper).

    supervisor ── ForkOrder ──▶ fork server ── fork ──▶ middle ── fork ──▶ worker
        ▲── Ready | Late | Failed ──┘                     └── Forked(pid) ──▶ supervisor
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from shmq import kernel, probes
from shmq.config.model import Config
from shmq.memory import locks
from shmq.memory.layout import FIELD
from shmq.memory.segment import attach

if TYPE_CHECKING:
    from shmq.tasks.task import Task

_log = logging.getLogger("shmq.forkserver")
_BLAS = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PACKET = 64 * 1024


class ForkOrder(msgspec.Struct, tag=True):
    """Fork a worker for the row; `serial` tells this order from a former one for the same row."""

    index: int
    group: int
    serial: int


class Ready(msgspec.Struct, tag=True):
    """The task modules are imported."""

    tasks: int


class Late(msgspec.Struct, tag=True):
    """These modules start threads at import: a server without them must replace this one."""

    modules: list[str]


class Failed(msgspec.Struct, tag=True):
    """The task modules cannot be used."""

    why: str


class Forked(msgspec.Struct, tag=True):
    """A worker exists."""

    index: int
    pid: int


class Unborn(msgspec.Struct, tag=True):
    """A worker could not be forked."""

    index: int
    why: str


Report = Ready | Late | Failed | Forked | Unborn
_decode_report = msgspec.msgpack.Decoder(Report).decode
_decode_order = msgspec.msgpack.Decoder(ForkOrder).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(eq=False)
class ForkServer:
    """The supervisor's end of one fork server."""

    pid: int
    socket: socket.socket
    late: tuple[str, ...] = ()
    is_over: bool = False

    def order(self, index: int, group: int, serial: int) -> bool:
        """Ask for a worker; Forked or Unborn follows. False when the server cannot be asked now."""
        try:
            self.socket.send(_encode(ForkOrder(index, group, serial)))
        except (BlockingIOError, BrokenPipeError, ConnectionError):
            return False
        return True

    def reports(self) -> list[Report]:
        """Reports that have arrived; `is_over` once none can follow."""
        found: list[Report] = []
        while True:
            try:
                packet = self.socket.recv(_PACKET)
            except BlockingIOError:
                return found
            except ConnectionError:
                packet = b""
            if not packet:
                self.is_over = True
                return found
            try:
                found.append(_decode_report(packet))
            except (
                msgspec.MsgspecError,
                UnicodeDecodeError,
            ):  # user code found the descriptor and wrote to it
                _log.warning("a damaged report of %d bytes from the fork server is ignored", len(packet))

    def hang_up(self) -> None:
        """No more orders: it forks what it was asked to, then ends. Its reports can still be read."""
        with contextlib.suppress(OSError):  # it may have ended already
            self.socket.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Setting:
    """What a fork server is started with. `late` modules are left to each worker."""

    config: Config
    folder: Path
    segment_name: str
    state_dir: Path
    task_output: str
    log_format: str
    lock_fd: int
    late: tuple[str, ...] = ()


def start(setting: Setting) -> ForkServer:
    """Fork the fork server off the (single-threaded, numpy-free) supervisor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor_pid = os.getpid()
    pid = kernel.fork(keep=(theirs.fileno(), setting.lock_fd))
    if pid == 0:
        status = 1
        try:
            _Server(setting, supervisor_pid, theirs).serve()
            status = 0
        except BaseException:
            _log.exception("the fork server broke")
        finally:
            os._exit(status)
    theirs.close()
    ours.setblocking(False)
    return ForkServer(pid, ours, setting.late)


class _Server:
    """The fork server process."""

    def __init__(self, setting: Setting, supervisor_pid: int, channel: socket.socket) -> None:
        self._setting = setting
        self._config = setting.config
        self._supervisor_pid = supervisor_pid
        self._channel = channel
        self._groups = list(setting.config.groups.items())

    def serve(self) -> None:
        """Import, report, then fork on order until the supervisor hangs up."""
        self._settle()
        try:
            tasks = self._import()
        except BaseException as error:
            from shmq.tasks.registry import why_not_loaded

            self._channel.send(_encode(Failed(why_not_loaded(error)[-_PACKET // 8 :])))
            return
        if tasks is None:
            return
        self._prepare()
        gc.collect()
        gc.freeze()
        self._channel.send(_encode(Ready(len(tasks))))
        while True:
            try:
                packet = self._channel.recv(_PACKET)
            except InterruptedError:
                continue
            if not packet:
                return
            order = _decode_order(packet)
            self._fork(order, tasks)

    def _settle(self) -> None:
        import setproctitle

        kernel.die_with_parent(self._supervisor_pid)
        setproctitle.setproctitle("shmq: fork server")
        for name in _BLAS:  # a BLAS thread pool made before the fork is a dead one after it
            os.environ.setdefault(name, "1")
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")
        os.environ["SHMQ_NAMESPACE"] = self._config.namespace

    def _import(self) -> dict[int, Task[..., Any]] | None:
        """Import the task modules and publish their tasks; None when a server without some must follow.

        Only the first server of a row knows all tasks; those that follow leave out what starts threads.
        """
        import shmq.worker.boot  # noqa: F401 - what every worker needs, imported once
        from shmq.tasks.registry import load, publish, refuse_unknown_groups, unmatched_tables

        late = self._setting.late
        early = [name for name in self._config.tasks if name not in late]
        threaded = []
        for name in early:
            before = probes.thread_count()
            load([name], self._setting.folder)
            if probes.thread_count() > before:
                threaded.append(name)
        tasks = load(early, self._setting.folder)
        refuse_unknown_groups(tasks.values(), self._config.groups)
        if not late:
            publish(tasks, self._setting.state_dir, self._config.routes, self._config.limits)
            names = {task.name for task in tasks.values()}
            for line in unmatched_tables(names, self._config.limits, self._config.routes):
                _log.warning("%s", line)
        if threaded:
            self._channel.send(_encode(Late([*late, *threaded])))
            return None
        return tasks

    def _prepare(self) -> None:
        """What all workers need alike: had each to make it, none of the memory that takes were shared."""
        from shmq.tasks.registry import former_names
        from shmq.worker.boot import rehearse

        self._segment = segment = attach(self._setting.segment_name)
        for name in FIELD:
            segment.view(name)
        self._lock_file = locks.open_once(segment.state_dir / "lock")
        self._former_names = former_names(segment.state_dir)
        self._registry = segment.header("registry") + 1  # the supervisor counts when it puts this server in charge
        rehearse(segment, self._lock_file)

    def _fork(self, order: ForkOrder, tasks: dict[int, Task[..., Any]]) -> None:
        """Fork twice. Every order is answered, also when a fork fails or the middle process is killed."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            middle = os.fork()
        except OSError as error:
            self._channel.send(_encode(Unborn(order.index, str(error))))
            return
        if middle == 0:
            self._be_middle(order, tasks)
        _, status = os.waitpid(middle, 0)
        if status:  # a report that was sent already wins
            self._channel.send(_encode(Unborn(order.index, f"the forking process ended with status {status:#x}")))

    def _be_middle(self, order: ForkOrder, tasks: dict[int, Task[..., Any]]) -> NoReturn:
        from shmq.worker.boot import Order, run

        name, settings = self._groups[order.group]
        status = 1
        try:
            # it inherits handlers of the supervisor that do nothing: a drain must wait until it has its own
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
            worker = os.fork()
            if worker:
                self._channel.send(_encode(Forked(order.index, worker)))
                status = 0
            else:
                self._channel.close()
                setting = self._setting
                run(
                    Order(
                        self._segment, self._lock_file, self._former_names,
                        order.index, order.serial, order.group, name, settings,
                        self._supervisor_pid, setting.task_output, setting.log_format, setting.late, setting.folder,
                        self._config.namespace,
                        tuple(self._config.limits), self._registry,
                    ),
                    tasks,
                )  # fmt: skip
        except OSError as error:
            _log.error("a worker cannot be forked: %s", error)
        finally:
            os._exit(status)
