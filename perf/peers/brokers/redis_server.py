"""A Redis of our own, on a free loopback port, in memory only, gone with the measurement.

producer ──▶ redis-server (127.0.0.1:free) ◀── worker × n, started by the peer's own command
"""

# mypy: disable-error-code="import-not-found,import-untyped"
from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perf.harness import MissingPeer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COMMAND = "redis-server"
URL_VARIABLE = "PERF_REDIS_URL"  # how the workers' side of an adapter finds the broker
ROOT = Path(__file__).resolve().parents[3]


def url() -> str:
    """Where the broker of this measurement listens."""
    return os.environ.get(URL_VARIABLE, "redis://127.0.0.1:1/0")


@contextmanager
def running() -> Iterator[str]:
    """Starts a Redis and yields its URL, which is also set for the workers that are started inside."""
    import redis

    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="perf-redis-") as folder:
        options = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder,
        ]
        with _process([COMMAND, *options]) as server:
            client = redis.Redis(port=port)

            def answers() -> bool:
                if server.poll() is not None:
                    raise MissingPeer(f"{COMMAND} ended with status {server.returncode} at start")
                try:
                    return bool(client.ping())
                except redis.RedisError:
                    return False

            wait_until(answers, f"{COMMAND} on port {port} to answer")
            client.close()
            os.environ[URL_VARIABLE] = f"redis://127.0.0.1:{port}/0"
            try:
                yield url()
            finally:
                del os.environ[URL_VARIABLE]


@contextmanager
def workers(arguments: Sequence[str]) -> Iterator[None]:
    """Runs `python -m …` as the peer's worker side until the block ends."""
    with _process([sys.executable, "-m", *arguments]):
        yield


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.02)


@contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, so that whatever it starts ends with it."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(timeout=3.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in family:
        try:
            member.kill()  # psutil compares start times: a reused pid is left alone
        except psutil.NoSuchProcess:
            pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
