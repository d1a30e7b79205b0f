"""1 MiB of float64 in, its sum out.

producer ──copy──▶ block ──view──▶ worker × 2 (sum)           "shmq": the array is anywhere
    ◀───────── float ─────────
producer ───────── block ──view──▶ worker × 2 (sum)           "shmq.empty": it was made in shared memory
    ◀───────── float ─────────

Peers have one way only: they are given the same arrays as "shmq", and send them through a pipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from perf import floors, functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

DIFFERENT = 12  # arrays in turn: a peer that caches one by identity gains nothing
WINDOW = 12  # each array is in one unread job at most
IN_PLACE = "shmq.empty"
T = TypeVar("T")
# celery, dramatiq and rq would carry arrays through Redis as text: nobody does, they are left out
PEERS = ("ProcessPoolExecutor", "Pool", "loky", "pebble", "deadpool", "mpire", "faster-fifo", "ray", "dask")


def arrays(jobs: int) -> Sequence[np.ndarray]:
    return _in_turn(_different(), jobs)


def shared_arrays(jobs: int) -> Sequence[np.ndarray]:
    """The same arrays, which lie in blocks before the clock starts, as where a program fills them there."""
    import shmq

    shared = []
    for array in _different():
        shared.append(shmq.empty(array.shape, array.dtype))
        shared[-1][:] = array
    return _in_turn(shared, jobs)


def sums(given: Sequence[np.ndarray]) -> Sequence[float]:
    return _in_turn([functions.sum_array(array) for array in given[:DIFFERENT]], len(given))


def contestants(setting: Setting) -> list[Contestant]:
    drive, drive_in_place = (driver.each(functions.sum_array, items, sums, WINDOW) for items in (arrays, shared_arrays))
    subjects = [
        driver.contestant(name, "subject", lambda: rig.open_session(setting.workers), how, None, 20_000)
        for name, how in ((rig.NAME, drive), (IN_PLACE, drive_in_place))
    ]
    return [*subjects, floors.copy_and_sum(), *driver.peers(setting, drive, PEERS)]


def _different() -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [generator.random(floors.ARRAY_BYTES // 8) for _ in range(DIFFERENT)]


def _in_turn(different: Sequence[T], jobs: int) -> Sequence[T]:
    return [different[job % len(different)] for job in range(jobs)]


SCENARIO = Scenario(
    "arrays",
    "1 MiB float64 array in, sum out",
    contestants,
    (
        Target("arrays: copied in", "per_s", 20, 40, against="ProcessPoolExecutor.submit"),
        Target("arrays: of shmq.empty", "per_s", 20, 40, subject=IN_PLACE, against="ProcessPoolExecutor.submit"),
        Target("arrays: copied in", "per_s", 0.25, 0.5, against=floors.COPY),
    ),
)
