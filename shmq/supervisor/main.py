"""The supervisor: one thread that forks, reaps, rings and answers. It never imports user code or
numpy, takes no lock that a worker may hold, and bounds-checks every shared word it reads.

Signal handlers only write to the wake-up descriptor; everything happens in the loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import setproctitle

from shmq import clock, kernel, probes
from shmq.config.differ import differing_keys
from shmq.config.load import load
from shmq.config.model import Config
from shmq.errors import ConfigError, ShmqError
from shmq.memory.doorbell import FifoBell
from shmq.memory.layout import HEADER
from shmq.refusal import told
from shmq.supervisor import helpers, limits, namespace
from shmq.supervisor.commands import Commands
from shmq.supervisor.control import ControlServer
from shmq.supervisor.forkserver import Setting
from shmq.supervisor.log import configure
from shmq.supervisor.pools import endings
from shmq.supervisor.pools.killing import Killer
from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.recycling import Recycling
from shmq.supervisor.pools.rescue import AGAIN_S, Rescue
from shmq.supervisor.pools.rest import Rest
from shmq.supervisor.pools.rows import Rows
from shmq.supervisor.pools.staffing import Staffing
from shmq.supervisor.pools.stalls import Stalls
from shmq.supervisor.servers import Servers
from shmq.supervisor.stopping import Stopping

_log = logging.getLogger("shmq.supervisor")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
EXIT_OK, EXIT_FORCED = 0, 1
_REST_TICKS, _LONGEST_REST_S = 10, 1.0  # a system at rest: so many ticks are one, while that is not longer
_DESCRIPTORS = 48  # beside one per worker: files, pipes, fork servers, 32 askers, what a look at /proc takes


def supervise(config: Config, config_path: Path, *, log_format: str = "text", task_output: str = "log") -> int:
    """Serve a namespace in the foreground until stopped; the exit code.

    Raises:
        ShmqError: refused at start (already running, no space, incompatible segment, broken tasks).
    """
    configure(log_format)
    setproctitle.setproctitle(f"shmq: supervisor {config.namespace}")
    return Supervisor(config, config_path.absolute(), task_output, log_format).run()


class Supervisor:
    """One namespace's supervisor. Construction takes the namespace, or raises and leaves nothing behind."""

    def __init__(self, config: Config, config_path: Path, task_output: str, log_format: str = "text") -> None:
        os.umask(0o077)
        if probes.thread_count() != 1:
            raise ShmqError(
                f"{probes.thread_count()} threads run in the supervisor before its first fork; it needs one"
            )
        kernel.require_pidfds()
        kernel.reserve_descriptors(config.memory.max_workers + _DESCRIPTORS)
        self.config = config
        self._config_path, self._written = config_path, None  # what the file says, where there is one
        with contextlib.suppress(ConfigError):  # a program's own Config: nothing to read again
            self._written = load(config_path)
        self.state_dir = state_dir = namespace.state_dir(config)
        namespace.prepare(state_dir)
        self.lock_file = namespace.lock(state_dir, config.namespace)
        self._poll = select.poll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._watch_signals()  # a signal from here on ends the loop in order, not the process in between
        kernel.adopt_orphans()
        with told(f"the state directory {state_dir} cannot be used"):
            self._bell = FifoBell(state_dir / "supervisor.bell", create=True)
            self._control = ControlServer(state_dir, Commands(self).handlers())
        try:
            self.segment = namespace.open_segment(config, state_dir, self.lock_file)
        except BaseException:
            self._control.close()
            raise
        self.segment.set_header("supervisor_ticks", clock.start_ticks(os.getpid()))
        self.segment.set_header("supervisor_pid", os.getpid())
        limits.write(self.segment, config)
        self.pools = Pools(config, Rows(self.segment), self.lock_file)
        self.staffing = Staffing(self.pools)
        self._killer = Killer(self.pools)
        self._recycling = Recycling(self.pools, self._killer, state_dir)
        self._stalls = Stalls(self.pools, self.lock_file)
        self._rescue = Rescue(self.pools)
        self._rest = Rest(self.pools)
        lock_fd = self.lock_file.fileno()
        self.helpers = [
            helpers.recovery(self.segment.path.name, config, lock_fd),
            helpers.planner(self.segment.path.name, config, lock_fd),
        ]
        self.servers = Servers(
            Setting(config, config_path.parent, self.segment.path.name, state_dir, task_output, log_format, lock_fd),
            self.pools,
            watch=self._watch, unwatch=self._unwatch, ready=self._announce_tasks, give_up=self._give_up,
        )  # fmt: skip
        self.stopping = Stopping(self)
        self._stop_signals = 0
        self._is_detached = False
        self._failed_start: str | None = None

    # -- the loop ------------------------------------------------------------------------

    def run(self) -> int:
        """The whole life of the supervisor."""
        self._watch(self._bell.fileno(), self._bell.clear)
        self._watch(self._control.fileno(), self._accept)
        next_tick = 0.0
        try:
            self._keep_helpers()
            self.servers.start()
            while not self.stopping.is_over():
                is_due = self._act(next_tick)
                self.pools.notice_live()
                if is_due:
                    next_tick = float("inf")
                    self._tick()
                self._killer.enforce()
                if not self.stopping.has_begun:
                    self.staffing.decide()
                    self.pools.settle()
                next_tick = min(next_tick, time.monotonic() + self._longest_sleep_s())
        finally:
            self._control.close()
            self.stopping.leave()
            signal.set_wakeup_fd(-1)
        if self._failed_start is not None:
            raise ConfigError(self._failed_start)
        return EXIT_FORCED if self.stopping.is_forced else EXIT_OK

    def _act(self, until: float) -> bool:
        """Sleep until something happens or a tick is due; do what is to be done. True: the tick is due now.

        The long sleep of a system at rest is a chain of short ones, with a glance at the lanes between them: work that
        nobody was rung for must not wait for its end.
        """
        found: list[tuple[int, int]] = []
        is_due = False
        while not found and not is_due:
            left_s = max(0.0, until - time.monotonic())
            found = self._poll.poll(min(left_s, self.config.supervisor.tick_s) * 1000)
            is_due = left_s <= self.config.supervisor.tick_s or self.pools.rows.has_work()
        for fd, action in [(fd, self._actions[fd]) for fd, _ in found]:
            if self._actions.get(fd) is action:  # an action before it may have closed it
                action()
        return time.monotonic() >= until or (is_due and not found)

    def _longest_sleep_s(self) -> float:
        """Until the next tick: after a suspicious look soon, in a system at rest later than `tick_s`."""
        tick_s = self.config.supervisor.tick_s
        if self._rescue.has_found:
            return min(AGAIN_S, tick_s)
        is_settled = self.servers.is_settled and all(h.pid for h in self.helpers) and not self.stopping.is_asked
        if self._rest.has_come() and is_settled:
            return max(tick_s, min(_REST_TICKS * tick_s, _LONGEST_REST_S))
        return tick_s

    def _tick(self) -> None:
        self._keep_helpers()
        self.servers.keep_one()
        self._rescue.look()
        self._recycling.look()
        self._stalls.look()
        if not self._is_detached and not self.segment.is_linked():
            self._is_detached = True
            self.segment.set_header("detached", 1)
            _log.error(
                "detached: the segment %s was removed while in use; attached processes go on, new ones cannot "
                "connect. Cause: RemoveIPC=yes at logout, a cleaner of /dev/shm, or rm. Drain, then start again.",
                self.segment.path,
            )

    def _keep_helpers(self) -> None:
        for helper in self.helpers:
            helper.keep_alive()
            word = f"{helper.name}_pid"
            if word in HEADER and self.segment.header(word) != helper.pid:
                self.segment.set_header(word, helper.pid)

    def _watch(self, fd: int, action: Callable[[], None]) -> None:
        self._poll.register(fd, select.POLLIN)
        self._actions[fd] = action

    def _unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._actions[fd]

    def _accept(self) -> None:
        fd = self._control.accept()
        if fd is not None:

            def answer() -> None:
                self._unwatch(fd)
                self._control.answer(fd)

            self._watch(fd, answer)

    # -- signals and children -------------------------------------------------------------

    def _watch_signals(self) -> None:
        self._wakeup, self._wakeup_writer = socket.socketpair()
        for end in (self._wakeup, self._wakeup_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._watch(self._wakeup.fileno(), self._signalled)

    def _signalled(self) -> None:
        for number in self._wakeup.recv(4096):
            if number == signal.SIGHUP:
                try:
                    self.reload()
                except ShmqError as error:
                    _log.error("reload refused: %s", error)
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop_signals += 1
                self.stopping.stop(self.config.supervisor.grace_s if self._stop_signals == 1 else 0.0)
        self.reap()

    def reap(self) -> None:
        """All children that ended. Each is looked at before it is reaped, while its pid is its own."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            self.servers.read()  # whoever forked it has reported it before it could become our child
            worker = self.pools.with_pid(pid)
            if worker is not None:
                worker.kill_leftovers()
            _, status, usage = os.wait4(pid, 0)
            helper = next((h for h in self.helpers if h.pid == pid), None)
            if worker is not None:
                was_out_of_memory = self._recycling.was_out_of_memory(worker, usage.ru_maxrss * 1024)
                endings.bury(self.pools, worker, status, was_out_of_memory=was_out_of_memory)
            elif helper is not None:
                helper.died(status)
                helper.keep_alive()
            else:
                self.servers.reaped(pid, status)  # or an orphan that a task left behind

    # -- code ----------------------------------------------------------------------------

    def reload(self) -> list[str]:
        """Import the task modules that the configuration names by now; its keys that have changed and take a restart.

        Raises:
            ShmqError: the configuration cannot be used any more, a reload is under way, or the supervisor is stopping.
        """
        if self.stopping.has_begun:
            raise ShmqError("the supervisor is stopping: nothing was changed")
        modules, restart = self.config.tasks, list[str]()
        if self._written is not None:
            written = load(self._config_path)
            modules = written.tasks
            restart = [key for key in differing_keys(self._written, written) if key != "tasks"]
        if not self.servers.reload(modules):
            raise ShmqError("a reload is under way: nothing was changed")
        if restart:
            _log.warning("reload: %s in %s changed; that takes a restart", ", ".join(restart), self._config_path)
        return restart

    def _announce_tasks(self) -> None:
        self.segment.set_header("registry", (self.segment.header("registry") + 1) & ((1 << 63) - 1))

    def _give_up(self, why: str) -> None:
        self._failed_start = why
        self.stopping.stop(0.0)
