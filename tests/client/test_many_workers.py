"""`map` and `stream` keep more workers busy than they have chunks under way for a few."""

from __future__ import annotations

import pytest

from tests.live import GUARD_S, LiveSupervisor

WORKERS = 30
TASKS = """
import time
from pathlib import Path
import shmq

@shmq.task
def meet(call):
    '''Returns as soon as all are here at once.'''
    number, folder, count, guard_s = call
    if number < 0:
        return number
    (Path(folder) / str(number)).touch()
    give_up = time.monotonic() + guard_s
    while len(list(Path(folder).iterdir())) < count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{len(list(Path(folder).iterdir()))} of {count} came")
        time.sleep(0.002)
    return number
"""
CONFIG = f"""
[groups.computation]
min_workers = {WORKERS}
max_workers = {WORKERS}
mode = "fixed"
[memory]
max_producers = 4
slots_per_producer = 256
block_budget_bytes = 16777216
max_workers = {WORKERS + 2}
"""


@pytest.mark.parametrize("verb", ["map", "stream"])
def test_every_worker_has_a_chunk(tmp_path, verb):
    folder = tmp_path / "here"
    folder.mkdir()
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        numbers = [-1] * 40 + list(range(WORKERS))  # the first ones end at once: nothing is known before
        calls = [(number, str(folder), WORKERS, GUARD_S / 2) for number in numbers]
        found = getattr(live.client(), verb)(f"{live.module}.meet", calls, chunk_size=1)
        assert list(found) == numbers
