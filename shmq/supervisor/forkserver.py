"""The fork server: imports the task modules once, freezes them, forks workers in milliseconds.

It is forked from the supervisor, which never imports user code; replacing it is how code is
reloaded. Each worker is forked twice: the middle process reports the worker's pid and ends, so that
the worker is re-parented to the supervisor (its subreaper).

    supervisor ── Order ──▶ fork server ── fork ──▶ middle ── fork ──▶ worker
        ▲──────── Ready | Failed ┘                    └── Forked(pid) ──▶ supervisor
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shmq import kernel, probes
from shmq.config.model import Config

if TYPE_CHECKING:
    from shmq.tasks.task import Task

_log = logging.getLogger("shmq.forkserver")
_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
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
    """The task modules cannot be imported."""

    traceback: str


class Forked(msgspec.Struct, tag=True):
    """A worker exists."""

    index: int
    pid: int


_decode_report = msgspec.msgpack.Decoder(Ready | Late | Failed | Forked).decode
_decode_order = msgspec.msgpack.Decoder(ForkOrder).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass
class ForkServer:
    """The supervisor's end: pid, socket, and whether it may be used yet."""

    pid: int
    socket: socket.socket
    is_ready: bool = False

    def order(self, index: int, group: int, serial: int) -> None:
        """Ask for a worker; a Forked report follows."""
        self.socket.send(_encode(ForkOrder(index, group, serial)))

    def reports(self) -> list[Ready | Late | Failed | Forked]:
        """Reports that have arrived."""
        found: list[Ready | Late | Failed | Forked] = []
        while True:
            try:
                packet = self.socket.recv(_PACKET)
            except (BlockingIOError, ConnectionError):
                return found
            if not packet:
                return found
            found.append(_decode_report(packet))

    def close(self) -> None:
        """Hang up; the fork server ends."""
        self.socket.close()


@dataclass(frozen=True)
class Setting:
    """What a fork server is started with. `late` modules are left to each worker."""

    config: Config
    folder: Path
    segment_name: str
    state_dir: Path
    task_output: str
    late: tuple[str, ...] = ()


def start(setting: Setting) -> ForkServer:
    """Fork the fork server off the (single-threaded, numpy-free) supervisor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor_pid = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            _Server(setting, supervisor_pid, theirs).serve()
            status = 0
        except BaseException:  # noqa: BLE001 - last frame of the process
            _log.exception("the fork server broke")
        finally:
            os._exit(status)
    theirs.close()
    ours.setblocking(False)
    return ForkServer(pid, ours)


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
        except BaseException:  # noqa: BLE001 - a task module may raise anything, sys.exit included
            text = traceback.format_exc()
            self._channel.send(_encode(Failed(text[-_PACKET // 2 :])))
            return
        if tasks is None:
            return
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

        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kernel.die_with_parent(self._supervisor_pid)
        setproctitle.setproctitle("shmq: fork server")
        for name in _BLAS:  # a BLAS thread pool made before the fork is a dead one after it
            os.environ.setdefault(name, "1")
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")
        os.environ["SHMQ_NAMESPACE"] = self._config.namespace

    def _import(self) -> dict[int, Task[Any, Any]] | None:
        """Import the task modules and publish their tasks; None when a server without some must follow."""
        import shmq.worker.boot  # noqa: F401 - what every worker needs, imported once
        from shmq.tasks.registry import load, publish

        late = self._setting.late
        early = [name for name in self._config.tasks if name not in late]
        if late:  # the server before this one has published all tasks
            return load(early, self._setting.folder)
        threaded = []
        for name in early:
            before = probes.thread_count()
            load([name], self._setting.folder)
            if probes.thread_count() > before:
                threaded.append(name)
        tasks = load(early, self._setting.folder)
        publish(tasks, self._setting.state_dir)
        if threaded:
            self._channel.send(_encode(Late(threaded)))
            return None
        return tasks

    def _fork(self, order: ForkOrder, tasks: dict[int, Task[Any, Any]]) -> None:
        from shmq.worker.boot import Order, run

        name, settings = self._groups[order.group]
        sys.stdout.flush()
        sys.stderr.flush()
        middle = os.fork()
        if middle:
            os.waitpid(middle, 0)
            return
        worker = os.fork()
        if worker:
            self._channel.send(_encode(Forked(order.index, worker)))
            os._exit(0)
        self._channel.close()
        setting = self._setting
        run(
            Order(
                setting.segment_name, order.index, order.serial, order.group, name, settings, self._supervisor_pid,
                setting.task_output, setting.late, setting.folder, self._config.namespace,
            ),
            tasks,
        )  # fmt: skip
