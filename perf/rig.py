"""A real supervisor for a scenario: its own config, namespace and folder, started, awaited, taken down.

python -m perf ──▶ python -m shmq supervise <temp>/config.toml ──▶ workers (tasks of perf.tasks)
     └── producer: this process, through the segment of a namespace that nobody else uses
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.peers import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import psutil

    from shmq.client.client import Client
    from shmq.tasks.task import Task

ROOT = Path(__file__).resolve().parent.parent
NAME = "shmq"
WINDOW = 1_000  # unread jobs of the rolling driver: just below the default of slots_per_producer
START_LIMIT_S = 30.0


@dataclass(frozen=True)
class Rig:
    """A supervisor that is up, with all its workers."""

    namespace: str
    client: Client
    process: subprocess.Popen[bytes]
    folder: Path
    workers: int

    @property
    def session(self) -> Session:
        """The rig behind the verbs of the peers. Functions are found in perf.tasks by their name."""
        from perf import tasks

        def bulk(function: Callable[..., Any], items: Sequence[Any]) -> Iterable[Any]:
            return self.client.map(getattr(tasks, function.__name__), items, chunk_size="auto")

        return Session(
            bind=lambda function: self.bind(getattr(tasks, function.__name__)),
            read=methodcaller("result"),
            map=bulk,
        )

    @staticmethod
    def bind(task: Task[..., Any]) -> Callable[..., Any]:
        """The call that users write, `task.submit`: it goes through the default client, which is this rig's."""
        return task.submit

    @cached_property
    def environment(self) -> dict[str, str]:
        return environment(self.namespace, self.folder)

    def command(self, *arguments: str) -> str:
        """Runs `shmq ARGUMENTS` against this rig; its output."""
        done = subprocess.run(
            [sys.executable, "-m", "shmq", *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30.0,
        )
        return done.stdout

    def tree(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        import psutil

        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def live_workers(self) -> list[tuple[int, float]]:
        """Pid of each live worker and seconds from the order to its first step, oldest first."""
        from shmq.memory.layout import WORKER, WORKER_LIVE

        found = []
        for row in self.client.segment.rows("worker_rows"):
            if row[WORKER["state"]] == WORKER_LIVE:
                order, start = row[WORKER["fork_ns"]], row[WORKER["started_ns"]]
                found.append((start, row[WORKER["pid"]], (start - order) / 1e9))
        return [(pid, seconds) for _, pid, seconds in sorted(found)]

    def cpu_s(self) -> float:
        """CPU seconds that the tree has used so far; threads that have ended are not in it."""
        return sum(cpu_of(member.pid) for member in self.tree())

    def worker_pids(self) -> set[int]:
        """Pids of workers that answer; asks until there are as many as configured."""
        from perf import tasks

        seen: set[int] = set()

        def all_answered() -> bool:
            jobs = [self.client.submit(tasks.nap, 0.002) for _ in range(4 * self.workers)]
            seen.update(job.result(timeout=START_LIMIT_S)[0] for job in jobs)
            return len(seen) >= self.workers

        wait_until(all_answered, f"{self.workers} workers to answer, {len(seen)} did")
        return seen


def environment(namespace: str, folder: Path) -> dict[str, str]:
    """For children of a rig: they find the repository, the namespace, and a state folder that goes away.

    They keep compiled modules, as an installed package has them.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {
        "PYTHONPATH": path,
        "SHMQ_NAMESPACE": namespace,
        "XDG_STATE_HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }


def config(namespace: str, folder: Path, workers: int, changes: Mapping[str, Mapping[str, object]]) -> str:
    """The TOML of a rig: the defaults, one group with a fixed number of workers, a scenario's changes."""
    group = {"min_workers": workers, "max_workers": workers, "mode": "fixed"} | dict(changes.get("group", {}))
    tables: dict[str, Mapping[str, object]] = {
        "groups.computation": group,
        "memory": changes.get("memory", {}),
        "supervisor": {"state_dir": str(folder / "state")} | dict(changes.get("supervisor", {})),
    }
    lines = [f'namespace = "{namespace}"', 'tasks = ["perf.tasks"]']
    for name, keys in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


@contextmanager
def supervised(workers: int = 2, **changes: Mapping[str, object]) -> Iterator[Rig]:
    """Yields a rig with all its workers up, its namespace the default; `changes` by table: group, memory, …"""
    import shmq

    with started(workers, **changes) as (namespace, process, folder), _default(namespace):
        client = connect(namespace, process, folder)
        try:
            rig = Rig(namespace, client, process, folder, workers)
            rig.worker_pids()
            yield rig
        finally:
            client.close()
            shmq.close()


@contextmanager
def _default(namespace: str) -> Iterator[None]:
    before = os.environ.get("SHMQ_NAMESPACE")
    os.environ["SHMQ_NAMESPACE"] = namespace
    try:
        yield
    finally:
        if before is None:
            del os.environ["SHMQ_NAMESPACE"]
        else:
            os.environ["SHMQ_NAMESPACE"] = before


@contextmanager
def started(
    workers: int = 2,
    **changes: Mapping[str, object],
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Starts a supervisor without waiting for it: namespace, process, folder (which holds its log)."""
    namespace = f"perf-{os.getpid()}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="perf-rig-") as name:
        folder = Path(name)
        (folder / "state").mkdir(mode=0o700)
        (folder / "config.toml").write_text(config(namespace, folder, workers, changes), encoding="utf-8")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "shmq", "supervise", str(folder / "config.toml")],
                env=environment(namespace, folder),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield namespace, process, folder
        finally:
            _end(process)
            _remove_remains(namespace)


def connect(namespace: str, process: subprocess.Popen[bytes], folder: Path) -> Client:
    """A client as soon as there are tasks to submit. Raises RuntimeError with the log when it ended."""
    import shmq

    end = time.monotonic() + START_LIMIT_S
    client: Client | None = None
    while True:
        try:
            client = client or shmq.connect(namespace=namespace)
            if client.registry():
                return client
            problem = "no task is registered"
        except shmq.ShmqError as error:
            problem = str(error)
        log = (folder / "log").read_text(errors="replace")[-2000:]
        if process.poll() is not None:
            raise RuntimeError(f"shmq supervise ended with status {process.returncode}:\n{log}")
        if time.monotonic() > end:
            raise TimeoutError(f"shmq supervise is not ready after {START_LIMIT_S:.0f} s: {problem}\n{log}")
        time.sleep(0.002)


def cpu_of(pid: int) -> float:
    """CPU seconds of a process's living threads, as the scheduler counts: nanoseconds, not ticks of 10 ms."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[0])
        except (OSError, ValueError, IndexError):  # the thread has just ended
            continue
    return total / 1e9


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.001)


@contextmanager
def open_session(workers: int) -> Iterator[Session]:
    """A rig as a peer among peers."""
    with supervised(workers) as rig:
        yield rig.session


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks politely, then kills what is left of the tree (identified by start time, not by number alone)."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass


def _remove_remains(namespace: str) -> None:
    """A supervisor that was killed leaves its segment; a bench must not."""
    for path in Path("/dev/shm").glob(f"*{namespace}*"):
        path.unlink(missing_ok=True)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)
