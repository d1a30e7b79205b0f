"""For scripts that check something against a supervisor of their own, in a scratch folder; stopped at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = STOP_S = 30.0


@contextlib.contextmanager
def supervised(name: str, config: str, tasks: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The supervisor and its scratch folder; from here on `shmq` and its commands in this process mean that one.

    `config` says {namespace} where its name belongs, and loads `tasks` as the module `check_tasks`.
    """
    with tempfile.TemporaryDirectory(prefix=f"shmq-{name}-") as text:
        scratch = Path(text)
        namespace = f"{name}-{os.getpid()}"
        os.environ.update(XDG_STATE_HOME=str(scratch / "state"), SHMQ_NAMESPACE=namespace, PYTHONPATH=str(ROOT))
        (scratch / "check_tasks.py").write_text(tasks)
        path = scratch / "config.toml"
        path.write_text(config.format(namespace=namespace))
        path.chmod(0o600)
        command = [sys.executable, "-m", "shmq", "supervise", str(path)]
        supervisor = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_ready(supervisor)
            yield supervisor, scratch
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(timeout=STOP_S)


def _wait_ready(supervisor: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + START_S
    tasks = [sys.executable, "-m", "shmq", "tasks"]
    while b"check_tasks." not in subprocess.run(tasks, capture_output=True, check=False).stdout:
        if time.monotonic() > give_up or supervisor.poll() is not None:
            raise SystemExit("the supervisor did not come up")
        time.sleep(0.05)
