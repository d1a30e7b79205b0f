"""The supervisor: one thread that forks, reaps, rings and answers. It never imports user code or
numpy, takes no lock that a worker may hold, and bounds-checks every shared word it reads.

Signal handlers only write to the wake-up descriptor; everything happens in the loop.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

from shmq import kernel, probes
from shmq.config.model import Config
from shmq.errors import ConfigError, ShmqError, UnknownGroup
from shmq.memory.doorbell import FifoBell
from shmq.supervisor import forkserver, namespace, recovery_entry
from shmq.supervisor.control import ControlServer
from shmq.supervisor.helpers import Helper
from shmq.supervisor.killing import Killer
from shmq.supervisor.log import configure
from shmq.supervisor.pools import STOPPED, Pools
from shmq.supervisor.staffing import Staffing

_log = logging.getLogger("shmq.supervisor")
EXIT_OK, EXIT_FORCED = 0, 1


def supervise(config: Config, config_path: Path, *, log_format: str = "text", task_output: str = "log") -> int:
    """Serve a namespace in the foreground until stopped; the exit code.

    Raises:
        ShmqError: refused at start (already running, no space, incompatible segment, broken tasks).
    """
    configure(log_format)
    return Supervisor(config, config_path.absolute(), task_output).run()


class Supervisor:
    """One namespace's supervisor."""

    def __init__(self, config: Config, config_path: Path, task_output: str) -> None:
        os.umask(0o077)
        if probes.thread_count() != 1:
            raise ShmqError(f"{probes.thread_count()} threads run in the supervisor before its first fork; it needs one")
        self._config, self._config_path, self._task_output = config, config_path, task_output
        self._state_dir = namespace.state_dir(config)
        namespace.prepare(self._state_dir)
        self._lock_file = namespace.lock(self._state_dir, config.namespace)
        kernel.adopt_orphans()
        self._segment = namespace.open_segment(config, self._state_dir, self._lock_file)
        self._segment.set_header("supervisor_pid", os.getpid())
        self._pools = Pools(config, self._segment)
        self._killer = Killer(self._segment, self._pools)
        self._staffing = Staffing(self._segment, self._pools)
        self._bell = FifoBell(self._state_dir / "supervisor.bell", create=True)
        self._helpers = [
            Helper("recovery", recovery_entry.run_recovery(self._segment.path.name, config)),
        ]
        self._server: forkserver.ForkServer | None = None
        self._next_server: forkserver.ForkServer | None = None
        self._control = ControlServer(self._state_dir, self._commands())
        self._poll = select.poll()
        self._actions: dict[int, Any] = {}
        self._stop_signals = 0
        self._stop_at = float("inf")
        self._is_draining = False
        self._is_over = False
        self._is_forced = False
        self._warned_detached = False
        self._failed_start: str | None = None

    # -- the loop ------------------------------------------------------------------------

    def run(self) -> int:
        """The whole life of the supervisor."""
        self._watch_signals()
        self._watch(self._bell.fileno(), self._bell.clear)
        self._watch(self._control.fileno(), self._accept)
        for helper in self._helpers:
            helper.start()
        self._start_fork_server(())
        tick_s = self._config.supervisor.tick_s
        next_tick = 0.0
        try:
            while not self._is_over:
                for fd, _ in self._poll.poll(max(0.0, next_tick - time.monotonic()) * 1000):
                    self._actions[fd]()
                self._pools.notice_live()
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + tick_s
                    self._tick()
                self._killer.enforce()
                if not self._stopping():
                    self._pools.settle()
                self._check_stopped()
        finally:
            self._leave()
        if self._failed_start is not None:
            raise ConfigError(self._failed_start)
        return EXIT_FORCED if self._is_forced else EXIT_OK

    def _tick(self) -> None:
        for helper in self._helpers:
            helper.keep_alive()
        if not self._stopping():
            self._staffing.decide()
        if not self._segment.is_linked() and not self._warned_detached:
            self._warned_detached = True
            self._segment.set_header("detached", 1)
            _log.error(
                "the segment %s was removed while in use: attached processes go on, new ones cannot connect. "
                "Cause: RemoveIPC=yes at logout, a cleaner of /dev/shm, or rm. Restart the supervisor after a drain.",
                self._segment.path,
            )
        self._drain_if_empty()

    def _watch(self, fd: int, action: Any) -> None:
        self._poll.register(fd, select.POLLIN)
        self._actions[fd] = action

    def _unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._actions[fd]

    # -- signals and children -------------------------------------------------------------

    def _watch_signals(self) -> None:
        self._wakeup, writer = socket.socketpair()
        self._wakeup_writer = writer
        for end in (self._wakeup, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._watch(self._wakeup.fileno(), self._signalled)

    def _signalled(self) -> None:
        for number in self._wakeup.recv(4096):
            if number == signal.SIGCHLD:
                continue
            if number == signal.SIGHUP:
                self._reload()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop_signals += 1
                self._stop(self._config.supervisor.grace_s if self._stop_signals == 1 else 0.0)
        self._reap()

    def _reap(self) -> None:
        """All children that ended. Reports are read first, so that a worker's pid is known."""
        self._read_reports()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            helper = next((h for h in self._helpers if h.pid == pid), None)
            if helper is not None:
                helper.died(status)
                if not self._stopping():
                    helper.keep_alive()
            elif self._server is not None and pid == self._server.pid:
                self._server_died(status)
            else:
                self._pools.died(pid, status)

    # -- fork server ------------------------------------------------------------------------

    def _start_fork_server(self, late: tuple[str, ...]) -> None:
        setting = forkserver.Setting(
            self._config, self._config_path.parent, self._segment.path.name, self._state_dir, self._task_output, late
        )
        server = forkserver.start(setting)
        self._next_server = server
        self._watch(server.socket.fileno(), self._read_reports)

    def _read_reports(self) -> None:
        for server in (self._server, self._next_server):
            if server is None:
                continue
            for report in server.reports():
                self._take_report(server, report)

    def _take_report(self, server: forkserver.ForkServer, report: Any) -> None:
        match report:
            case forkserver.Forked(index=index, pid=pid):
                self._pools.forked(index, pid)
            case forkserver.Late(modules=modules):
                _log.warning(
                    "task modules %s start threads when imported: each worker imports them after its fork, which "
                    "makes workers start slower. Start threads on first use instead.",
                    ", ".join(modules),
                )
                self._retire(server)
                self._start_fork_server(tuple(modules))
            case forkserver.Ready(tasks=tasks):
                self._use(server, tasks)
            case forkserver.Failed(traceback=text):
                self._refuse(server, text)

    def _use(self, server: forkserver.ForkServer, tasks: int) -> None:
        """New code is ready: workers of the old are replaced one by one."""
        old, self._server, self._next_server = self._server, server, None
        server.is_ready = True
        if old is not None:
            self._retire(old)
        self._segment.set_header("registry", self._segment.header("registry") + 1)
        self._pools.fork_server = server
        self._pools.generation += 1
        _log.info("%d tasks of %s are ready", tasks, ", ".join(self._config.tasks) or "no module")

    def _refuse(self, server: forkserver.ForkServer, text: str) -> None:
        self._retire(server)
        if self._server is None:
            self._failed_start = f"a task module cannot be imported; nothing was started.\n{text}"
            self._stop(0.0)
        else:
            _log.error("reload refused, the old code goes on: a task module cannot be imported\n%s", text)

    def _retire(self, server: forkserver.ForkServer) -> None:
        self._unwatch(server.socket.fileno())
        server.close()
        if self._next_server is server:
            self._next_server = None

    def _server_died(self, status: int) -> None:
        """Workers go on without it; a new one is needed for the next fork."""
        _log.warning("the fork server ended with status %#x: restarted", status)
        assert self._server is not None
        self._pools.fork_server = None
        self._retire(self._server)
        self._server = None
        self._pools.abandon_orders()
        if not self._stopping():
            self._start_fork_server(())

    def _reload(self) -> None:
        """Import the task modules anew; on success all workers are replaced, on failure nothing changes."""
        if self._stopping() or self._next_server is not None:
            return
        _log.info("reload: importing the task modules anew")
        self._start_fork_server(())

    # -- stopping -----------------------------------------------------------------------------

    def _stopping(self) -> bool:
        return self._stop_at < float("inf")

    def _stop(self, grace_s: float) -> None:
        """Workers finish what they run within the grace, then are killed; queued jobs stay in the segment."""
        first = not self._stopping()
        self._stop_at = min(self._stop_at, time.monotonic() + grace_s)
        self._segment.set_header("draining", 1)
        if first:
            _log.info("stopping: workers have %g s to finish what they run", grace_s)
            for worker in self._pools.all_workers():
                worker.reason = STOPPED
                self._pools.drain(worker)

    def _check_stopped(self) -> None:
        if not self._stopping():
            return
        workers = self._pools.all_workers()
        if not workers:
            self._is_over = True
        elif time.monotonic() >= self._stop_at:
            for worker in workers:
                if worker.kill_at == float("inf"):
                    self._is_forced = self._is_forced or worker.is_live
                    worker.kill_at = time.monotonic()
                    self._pools.kill(worker, STOPPED)

    def _drain_if_empty(self) -> None:
        if self._is_draining and not self._stopping() and not namespace.jobs_left(self._segment):
            _log.info("drained: no job is left")
            self._stop(self._config.supervisor.grace_s)

    def _leave(self) -> None:
        """Give everything back. The segment stays while jobs or producers are left in it."""
        self._control.close()
        for worker in self._pools.all_workers():
            self._pools.kill(worker, STOPPED)
        self._wait_for_recovery()
        for helper in self._helpers:
            helper.kill()
        for server in (self._server, self._next_server):
            if server is not None:
                server.close()
        signal.set_wakeup_fd(-1)
        self._segment.set_header("supervisor_pid", 0)
        left = namespace.jobs_left(self._segment)
        if namespace.remove_if_unused(self._segment, self._lock_file):
            _log.info("stopped; nothing left behind")
        else:
            _log.info("stopped; the segment stays with %d unfinished jobs: start again to go on", left)
        self._bell.unlink()

    def _wait_for_recovery(self) -> None:
        """Let recovery free the rows of the workers that just ended."""
        give_up = time.monotonic() + 2.0
        while time.monotonic() < give_up and self._pools.has_dead_rows():
            time.sleep(0.002)
            self._reap()

    # -- control ----------------------------------------------------------------------------

    def _accept(self) -> None:
        fd = self._control.accept()
        if fd is not None:

            def answer() -> None:
                self._unwatch(fd)
                self._control.answer(fd)

            self._watch(fd, answer)

    def _commands(self) -> dict[str, Any]:
        return {
            "ping": lambda: {"pid": os.getpid(), "namespace": self._config.namespace},
            "stop": self._command_stop, "drain": self._command_drain, "reload": self._command_reload,
            "pause": lambda group: self._command_pause(group, paused=1),
            "resume": lambda group: self._command_pause(group, paused=0),
            "scale": self._command_scale, "workers": self._command_workers, "limit": self._command_limit,
        }  # fmt: skip

    def _command_stop(self, grace_s: float | None = None) -> dict[str, Any]:
        self._stop(self._config.supervisor.grace_s if grace_s is None else float(grace_s))
        return {"pid": os.getpid()}

    def _command_drain(self) -> dict[str, Any]:
        self._is_draining = True
        return {"pid": os.getpid(), "jobs": namespace.jobs_left(self._segment)}

    def _command_reload(self) -> dict[str, Any]:
        self._reload()
        return {"modules": list(self._config.tasks)}

    def _pool_named(self, group: str) -> Any:
        pool = next((p for p in self._pools.pools if p.name == group), None)
        if pool is None:
            known = ", ".join(p.name for p in self._pools.pools)
            raise UnknownGroup(f"no group {group!r}; this supervisor runs {known}")
        return pool

    def _command_pause(self, group: str, *, paused: int) -> dict[str, Any]:
        pool = self._pool_named(group)
        self._pools.set_control(pool, "paused", paused)
        if not paused:
            self._pools.wake(pool)
        return {"group": group, "paused": bool(paused)}

    def _command_scale(self, group: str, workers: int | None) -> dict[str, Any]:
        pool = self._pool_named(group)
        if workers is not None and not (isinstance(workers, int) and 0 <= workers <= self._segment.shape.workers):
            raise ShmqError(f"workers must be 0..{self._segment.shape.workers} or nothing (automatic), got {workers!r}")
        pool.fixed_target = workers
        self._staffing.decide()
        return {"group": group, "workers": pool.target, "fixed": workers is not None}

    def _command_workers(self) -> dict[str, Any]:
        return {
            "workers": [
                {"index": w.index, "pid": w.pid, "group": self._pools.pools[w.group].name, "live": w.is_live,
                 "draining": w.is_draining}
                for w in self._pools.all_workers()
            ]
        }  # fmt: skip

    def _command_limit(
        self, group: str, rate_per_s: float | None = None, burst: int | None = None
    ) -> dict[str, Any]:
        pool = self._pool_named(group)
        self._pools.set_limit(pool, rate_per_s, burst)
        return {"group": group, "rate_per_s": rate_per_s, "burst": burst}


