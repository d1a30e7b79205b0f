"""A real supervisor for tests: its own process, namespace, state directory, task module and log.

    TASKS = '''
    import shmq

    @shmq.task
    def echo(x):
        return x
    '''

    with LiveSupervisor(tmp_path, TASKS, "[groups.computation]\\nmax_workers = 2") as live:
        assert live.submit("echo", 5).result(30) == 5

Leaving the block stops it and asserts that neither a process nor a name in /dev/shm is left. A test that
ends with unfinished jobs sets `live.leaves_jobs = True`: the segment that then stays is removed here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

GUARD_S = 60.0
"""A condition that does not come true in this time never will. Not a bound that a test asserts."""

_ROOT = Path(__file__).resolve().parent.parent
_SMALL_MEMORY = """
[memory]
max_producers = 8
slots_per_producer = 256
block_budget_bytes = 4194304
max_workers = 16
"""
_RUN = """
import sys
from pathlib import Path
from shmq.config.load import load
from shmq.errors import ShmqError
from shmq.supervisor.main import supervise
path = Path(sys.argv[1])
exec(sys.argv[4])
try:
    sys.exit(supervise(load(path), path, log_format=sys.argv[2], task_output=sys.argv[3]))
except ShmqError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
_numbers = itertools.count(1)


def until(condition: Callable[[], Any], what: str = "", guard_s: float = GUARD_S) -> Any:
    """Poll until the condition holds; what it returned. Fails, with `what`, when it never does."""
    give_up = time.monotonic() + guard_s
    while not (found := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"never came true: {what or condition}")
        time.sleep(0.005)
    return found


def in_child(work: Callable[[], object]) -> int:
    """Fork, work, wait; 0, or the child's exit status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class LiveSupervisor:
    """One namespace with a real process tree.

    Args:
        folder: an empty folder (`tmp_path`); config, task module, log and state directory go there.
        tasks: source of the task module, imported as `jobs`.
        config: TOML after `namespace` and `tasks`; a small [memory] is added unless it has one.
        modules: other modules to list as tasks, by name, with their source.
        env: added to the environment of the process tree.
        prelude: Python that the supervisor runs first, to shorten one of its patiences.
    """

    module = "jobs"

    def __init__(
        self,
        folder: Path,
        tasks: str = "",
        config: str = "[groups.computation]\nmax_workers = 2\n",
        *,
        modules: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        log_format: str = "text",
        task_output: str = "log",
        prelude: str = "",
        namespace: str | None = None,
    ) -> None:
        run = os.environ.get("SHMQ_TEST_RUN") or secrets.token_hex(4)
        worker = os.environ.get("PYTEST_XDIST_WORKER", "m")
        self.namespace = namespace or f"t{run}-{worker}-live{next(_numbers)}"
        self.folder = folder
        self.config_path = folder / "config.toml"
        self.log_path = folder / "log"
        self.state_home = folder / "state"
        self.state_dir = self.state_home / "shmq" / self.namespace
        self.leaves_jobs = False
        self.process: subprocess.Popen[bytes] | None = None
        self.env = {
            **os.environ, "PYTHONPATH": str(_ROOT), "XDG_STATE_HOME": str(self.state_home),
            "PYTHONDONTWRITEBYTECODE": "",  # as most users have it
            **(env or {}),
        }  # fmt: skip
        self._arguments = (log_format, task_output, prelude)
        self._modules = {self.module: tasks, **(modules or {})}
        self._clients: list[Any] = []
        self._own_client: Any = None
        self._segment: Any = None
        for name, source in self._modules.items():
            self.write_module(name, source)
        self.write_config(config)

    # -- files ---------------------------------------------------------------------------

    def write_module(self, name: str, source: str) -> None:
        """Write (or, before a reload, replace) a task module."""
        temporary = self.folder / f"{name}.new"
        temporary.write_text(textwrap.dedent(source))
        temporary.rename(self.folder / f"{name}.py")

    def write_config(self, config: str) -> None:
        """Write the configuration; `start()` reads it."""
        config = textwrap.dedent(config)
        memory = "" if "[memory]" in config else _SMALL_MEMORY
        names = ", ".join(f'"{name}"' for name in self._modules)
        self.config_path.write_text(f'namespace = "{self.namespace}"\ntasks = [{names}]\n{config}\n{memory}')
        self.config_path.chmod(0o600)

    def log(self) -> str:
        """All that the process tree wrote to its stderr and stdout."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # -- life ----------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> Self:
        """Start the supervisor, also again; wait until it answers, has its tasks and its workers."""
        command = [sys.executable, "-c", _RUN, str(self.config_path), *self._arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.env, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            until(self._is_ready, "the supervisor is ready")
        return self

    def _is_ready(self) -> bool:
        from shmq.errors import ShmqError

        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the supervisor ended with {self.process.returncode}:\n{self.log()}")
        try:
            if self.control("ping")["pid"] != self.pid:
                return False
            has_tasks = (self.state_dir / "registry.json").exists() and self.segment.header("registry") > 0
            return has_tasks and all(row["workers"] >= row["min_workers"] for row in self.controls())
        except (ShmqError, FileNotFoundError):
            return False

    def controls(self) -> list[dict[str, int]]:
        """The words of each group's `group_control` row, by name."""
        from shmq.memory.layout import GROUP_CONTROL

        return [{name: row[i] for name, i in GROUP_CONTROL.items()} for row in self.segment.rows("group_control")]

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
            return
        self.close_clients()
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
            if not self.leaves_jobs:
                self.assert_nothing_left()
        finally:
            self.discard()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and wait; its exit code. Clients of this object are closed first."""
        assert self.process is not None
        self.close_clients()
        self.process.send_signal(number)
        try:
            return self.process.wait(GUARD_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the supervisor does not stop:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL the supervisor alone; its workers end by their death signal, the segment stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(GUARD_S)

    def discard(self) -> None:
        """End everything and remove all names, whatever state it is in."""
        self.close_clients()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(GUARD_S)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in self.names_left():
            path.unlink(missing_ok=True)

    def assert_nothing_left(self) -> None:
        """No process of the tree, no segment, no doorbell. Call after `stop()`."""
        until(lambda: not self.processes(), f"processes {self.processes()} end")
        assert not self.names_left(), f"left in /dev/shm: {self.names_left()}\n{self.log()}"

    def names_left(self) -> list[Path]:
        """Names in /dev/shm that belong to this namespace: segment and semaphores."""
        base = f"shmq-{os.geteuid()}-{self.namespace}"
        names = ((name, name.removeprefix("sem.")) for name in sorted(os.listdir("/dev/shm")))
        return [Path("/dev/shm", name) for name, bare in names if bare == base or bare.startswith(f"{base}.")]

    def processes(self) -> list[int]:
        """Pids of all other processes that map the namespace's segment (its name may be gone)."""
        name = f"/dev/shm/shmq-{os.geteuid()}-{self.namespace}".encode()
        found = []
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_bytes().replace(b" (deleted)", b"").splitlines()
                if pid != os.getpid() and any(line.endswith(name) for line in maps):
                    found.append(pid)
        return found

    def named(self, name: str) -> list[int]:
        """Pids of the tree's processes whose title begins so: "shmq: fork server", "shmq: recovery" ..."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(name.encode()):
                    found.append(pid)
        return found

    # -- looking and asking ---------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Pid of the supervisor."""
        assert self.process is not None
        return self.process.pid

    @property
    def segment(self) -> Any:
        """The segment as this process maps it; attached anew when a restart has replaced it."""
        from shmq.memory.segment import attach, segment_name

        if self._segment is None or not self._segment.is_linked():
            self._segment = attach(segment_name(self.namespace))
        return self._segment

    def control(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One request to the control socket. Raises ShmqError with the supervisor's refusal."""
        from shmq.supervisor.control import request

        return request(self.state_dir, command, **arguments)

    def workers(self, group: str | None = None) -> list[dict[str, Any]]:
        """index, pid, group, live, draining ... of each worker, as the supervisor sees them."""
        found = self.control("workers")["workers"]
        return [worker for worker in found if group is None or worker["group"] == group]

    def live_workers(self, group: str | None = None) -> list[dict[str, Any]]:
        """Those that take jobs."""
        return [worker for worker in self.workers(group) if worker["live"] and not worker["draining"]]

    def client(self) -> Any:
        """A new client; closed at the end. Each takes a producer row."""
        from shmq.client.client import Client

        made = Client(self.namespace)
        self._clients.append(made)
        return made

    def close_clients(self) -> None:
        """Give their rows back."""
        for made in self._clients:
            with contextlib.suppress(Exception):
                made.close()
        self._clients.clear()
        self._own_client = None

    def submit(self, task: str, *args: Any, **options: Any) -> Any:
        """Submit `jobs.<task>` (or a full name) by the shared client; keyword arguments are task options."""
        if self._own_client is None:
            self._own_client = self.client()
        name = task if "." in task else f"{self.module}.{task}"
        found = self._own_client._registry.task(name)
        return self._own_client.submit_task(found.options(**options) if options else found, args)
