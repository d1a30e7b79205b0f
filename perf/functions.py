"""What the jobs do, as plain functions: peers call these, `perf.tasks` declares the same for shmq."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SPIN_STEPS = 1 << 14  # about 1 ms of interpreter work; the same work everywhere, not the same time


def echo(value: int) -> int:
    return value


def sum_array(array: np.ndarray) -> float:
    return float(array.sum())


def spin(seed: int) -> int:
    """A fixed amount of pure Python work (about 1 ms); the result depends on every step."""
    state = seed & 0xFFFF
    for _ in range(SPIN_STEPS):
        state = (state * 25173 + 13849) & 0xFFFF
    return state


def nap(seconds: float) -> tuple[int, float, float]:
    """Sleeps; returns the worker's pid and when it began and ended on the clock that all processes share."""
    began = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), began, time.monotonic()


def begin_twice(note: str) -> tuple[int, float]:
    """The first run writes its pid and waits to be killed; the next returns its pid and when it began."""
    began = time.monotonic()
    path = Path(note)
    if path.exists():
        return os.getpid(), began
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    time.sleep(60.0)
    raise RuntimeError("nobody killed this worker")


def make_garbage() -> float:
    """Seconds for 200 little cycles."""
    begun = time.perf_counter()
    for n in range(200):
        loop: dict[str, object] = {"n": n}
        loop["self"] = loop
    return time.perf_counter() - begun


def in_pieces(mebibytes: int, kept: list[bytes]) -> int:
    """RssAnon after so much was taken in pieces of 2 KiB, every hundredth kept (200 at most), the rest let go."""
    pieces = [bytes(2048) for _ in range(mebibytes * 512)]
    kept[:] = pieces[::100][:200]
    del pieces
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024
