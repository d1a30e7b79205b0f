from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from shmq.cli.main import cli
from tests.live import LiveSupervisor

TASKS = """
import os, time, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def pair(a: int, b: int = 2) -> list[int]:
    "Both numbers."
    return [a, b]

@shmq.task
def typed(count: int, share: float | None = None, is_fast: bool = True) -> list:
    return [count, share, is_fast]

@shmq.task
def summed(numbers: list[int]) -> int:
    return sum(numbers)

@shmq.task
def boom(x):
    raise ValueError(f"no {x}")

@shmq.task(idempotent=True, timeout=30.0)
def note(path: str, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    with open(path, "w"):
        return os.path.basename(path)

@shmq.task(timeout=60.0)
def note_after(path: str, awaited: str) -> str:
    while not os.path.exists(awaited):
        time.sleep(0.001)
    return note(path)

@shmq.task
def length(text: str) -> int:
    return len(text)

@shmq.task
def repeat(text: str, count: int) -> str:
    return text * count

@shmq.task(group="network")
def afar(x):
    return x
"""
CONFIG = "[groups.computation]\nmin_workers = 2\nmax_workers = 2\n[groups.network]\nmin_workers = 1\nmax_workers = 3\n"


class Commands:
    """Runs `shmq` commands against one live supervisor."""

    def __init__(self, live: LiveSupervisor) -> None:
        self.live = live
        self.env = {**live.env, "SHMQ_NAMESPACE": live.namespace}

    def __call__(self, *arguments: str):
        """In this process: quick, for what needs no real input and output."""
        return CliRunner().invoke(cli, list(arguments), env=self.env)

    def run(self, *arguments: str, given: bytes | str = b"") -> subprocess.CompletedProcess[bytes]:
        """As a process of its own."""
        given = given.encode() if isinstance(given, str) else given
        return subprocess.run(self.command(*arguments), input=given, capture_output=True, env=self.env, timeout=120)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """As a process that goes on."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(*arguments), stdin=pipe, stdout=pipe, stderr=pipe, env=self.env)

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "shmq", *arguments]


@pytest.fixture(scope="module")
def shmq(tmp_path_factory) -> Iterator[Commands]:
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield Commands(live)
