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
    number, folder, count, padding, guard_s, *_ = call
    if number < 0:
        return number, bytes(padding)
    (Path(folder) / str(number)).touch()
    give_up = time.monotonic() + guard_s
    while len(list(Path(folder).iterdir())) < count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{len(list(Path(folder).iterdir()))} of {count} came")
        time.sleep(0.002)
    return number, bytes(padding)
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
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        numbers, calls = calls_that_meet(tmp_path, 40, WORKERS)  # of those before nothing is known
        found = getattr(live.client(), verb)(f"{live.module}.meet", calls, chunk_size=1)
        assert [number for number, _ in found] == numbers


def test_chunks_of_a_stream_are_small_where_results_are_large_so_that_no_worker_waits_for_its_turn(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        numbers, calls = calls_that_meet(tmp_path, 400, 12, padding=10_000)
        found = live.client().stream(f"{live.module}.meet", calls, chunk_size=1000, memory_limit="10 MB")
        assert [(number, len(padding)) for number, padding in found] == [(number, 10_000) for number in numbers]


def test_map_has_two_chunks_under_way_however_large_their_arguments_are(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        numbers, calls = calls_that_meet(tmp_path, 8, 2)
        found = live.client().map(f"{live.module}.meet", [(*call, bytes(3_000_000)) for call in calls])
        assert [number for number, _ in found] == numbers


def calls_that_meet(tmp_path, before, count, padding=0):
    """As many numbers as there are workers, of which `count` must be here at once, after some that end at once."""
    folder = tmp_path / "here"
    folder.mkdir()
    numbers = [-1] * before + list(range(WORKERS))
    return numbers, [(number, str(folder), count, padding, GUARD_S / 2) for number in numbers]
