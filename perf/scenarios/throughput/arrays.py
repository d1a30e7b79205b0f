"""1 MiB of float64 in, its sum out.

producer ──copy──▶ block ──view──▶ worker × 2 (sum)
    ◀───────── float ─────────
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perf import floors, functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

DIFFERENT = 8  # arrays in turn: a peer that caches one by identity gains nothing
WINDOW = 8
# celery, dramatiq and rq would carry arrays through Redis as text: nobody does, they are left out
PEERS = ("ProcessPoolExecutor", "Pool", "loky", "pebble", "deadpool", "mpire", "faster-fifo", "ray", "dask")


def arrays(jobs: int) -> Sequence[np.ndarray]:
    generator = np.random.default_rng(7)
    different = [generator.random(floors.ARRAY_BYTES // 8) for _ in range(DIFFERENT)]
    return [different[job % DIFFERENT] for job in range(jobs)]


def sums(given: Sequence[np.ndarray]) -> Sequence[float]:
    different = [functions.sum_array(array) for array in given[:DIFFERENT]]
    return [different[job % DIFFERENT] for job in range(len(given))]


def contestants(setting: Setting) -> list[Contestant]:
    drive = driver.each(functions.sum_array, arrays, sums, WINDOW)
    subject = driver.contestant(rig.NAME, "subject", lambda: rig.open_session(setting.workers), drive, None, 20_000)
    return [subject, floors.copy_and_sum(), *driver.peers(setting, drive, PEERS)]


SCENARIO = Scenario(
    "arrays",
    "1 MiB float64 array in, sum out",
    contestants,
    (
        Target("arrays", "per_s", 20, 40, against="ProcessPoolExecutor.submit"),
        Target("arrays", "per_s", 0.25, 0.5, against=floors.COPY),
    ),
)
