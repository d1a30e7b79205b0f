"""The supervisor of a soak run: a namespace and a state directory that nobody else uses, taken down at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Self

from shmq.config.load import load
from shmq.config.model import Config
from shmq.errors import ConfigError, ShmqError, TracingError
from shmq.memcheck.soak.guarded import remove_names
from shmq.memory import doorbell
from shmq.memory.segment import Segment, attach, segment_name

START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0


class Rig:
    """Starts with the block, ends with it, also after Ctrl-C; if this process is killed, it ends by itself."""

    def __init__(self, config: Path, namespace: str, scratch: Path, log: Path, *, watch: Path | None) -> None:
        """Nothing is started before the block.

        Args:
            config: of the supervisor; its namespace is replaced.
            namespace: for this run.
            scratch: an empty folder for its state.
            log: file for all that the processes write.
            watch: folder for the workers' task deltas.

        Raises:
            ConfigError: it cannot be used, or names the state directory of another supervisor.
        """
        self.config: Config = load(config)
        if self.config.supervisor.state_dir is not None:
            raise ConfigError(
                f"{config}: [supervisor] state_dir = {self.config.supervisor.state_dir!r} belongs to the real "
                "supervisor, and a soak run must not use it. Run soak with a copy of the file that leaves the key out."
            )
        self.namespace = namespace
        self.log = log
        self.environment = {
            **os.environ, "XDG_STATE_HOME": str(scratch), "SHMQ_NAMESPACE": namespace,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **({} if watch is None else {"SHMQ_WATCH": str(watch)}),
        }  # fmt: skip
        self._config_path, self._scratch = config, scratch

    def __enter__(self) -> Self:
        self._log_file: IO[bytes] = self.log.open("ab")
        guard = ["-m", "shmq.memcheck.soak.guarded", str(os.getpid()), str(self._scratch)]
        try:
            self.process = self.start(*guard, "supervise", str(self._config_path), "-n", self.namespace)
            self.segment = self._ready()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._take_down()

    def start(self, *arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """A Python process of the run, in a session of its own so that Ctrl-C is ours alone."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log_file if stdout is None else stdout,
            stderr=self._log_file,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End the supervisor; workers write down what they saw."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def semaphores(self) -> int:
        """How many doorbells of this namespace exist, those included that no row names any more."""
        return len(doorbell.names_of(segment_name(self.namespace)))

    def _ready(self) -> Segment:
        give_up = time.monotonic() + START_LIMIT_S
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(ShmqError, OSError, ValueError):
                segment = attach(segment_name(self.namespace))
                if segment.header("registry") > 0 and (segment.state_dir / "registry.json").exists():
                    return segment
                segment.close()
            time.sleep(0.02)
        said = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
        raise TracingError(f"the supervisor of the run did not start. Its last lines:\n{said}")

    def _take_down(self) -> None:
        if hasattr(self, "process"):
            self.stop()
        if hasattr(self, "segment"):
            self.segment.close()
        remove_names(self.namespace)
        self._log_file.close()
