"""Real processes with planted leaks, read at 20 Hz for some seconds that count as a day: who leaks is found.

All children run at once and are read in turn; one recording, as in a soak run.
"""

from __future__ import annotations

import time

import pytest

from shmq.memcheck.recording import Recorder, load_run
from shmq.memcheck.sampling import Process, Sampler
from shmq.memcheck.verdict import judge_all
from tests.memcheck import children

SECONDS = 9.0
EVERY_S = 0.05
# task: (jobs per second, quantity that leaks); slow enough that all of them together leave the machine room
LEAKING = {
    "grow_list": (10_000, "rss_anon_bytes"),
    "cycle_with_del": (10_000, "rss_anon_bytes"),
    "c_malloc": (5_000, "rss_anon_bytes"),
    "only_when_failing": (5_000, "rss_anon_bytes"),
    "descriptors": (80, "descriptors"),
}
HARMLESS = {"levelling_cache": (10_000, ""), "clean": (2_000, "")}


@pytest.mark.slow
def test_planted_leaks_are_found_and_nothing_else_is_called_one(tmp_path):
    rates = {task: rate for task, (rate, _) in {**LEAKING, **HARMLESS}.items()}
    started = {task: children.start(task, tmp_path, "--per-second", str(rate)) for task, rate in rates.items()}
    try:
        record(tmp_path, started)
    finally:
        for child in started.values():
            child.communicate(input="end\n", timeout=60)
    run = load_run(tmp_path / "run")
    verdicts = {(v.name, v.quantity): v for v in judge_all(run.series, acceleration=run.acceleration)}

    for task, (_, quantity) in LEAKING.items():
        assert verdicts[task, quantity].answer == "leak", verdicts[task, quantity]
        assert verdicts[task, quantity].per_1000_jobs.low > 0
    for task in HARMLESS:
        for quantity in ("rss_anon_bytes", "descriptors", "threads"):
            assert not verdicts[task, quantity].is_leak, verdicts[task, quantity]
    assert verdicts["grow_list", "descriptors"].answer == "no leak"
    assert verdicts["c_malloc", "threads"].answer == "no leak"
    assert verdicts["c_malloc", "rss_anon_bytes"].per_1000_jobs.mid == pytest.approx(208_000, rel=0.25)
    assert verdicts["descriptors", "descriptors"].per_1000_jobs.mid == pytest.approx(1000, rel=0.1)


def record(folder, started) -> None:
    guard = time.monotonic() + 120
    counters = {task: folder / f"{task}.jobs" for task in started}
    while not all(path.exists() and jobs_of(path) for path in counters.values()):
        assert time.monotonic() < guard, "the children did not begin to work"
        time.sleep(0.05)
    recorder = Recorder(folder / "run", {"acceleration": 86_400 / SECONDS})
    sampler = Sampler()
    processes = {task: Process.of(f"worker {task}", task, child.pid) for task, child in started.items()}
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        for task, process in processes.items():
            reading = sampler.read(process, jobs_of(counters[task]))
            assert reading is not None, f"{task} has ended"
            recorder.sample(reading)
        time.sleep(EVERY_S)
    recorder.finish()


def jobs_of(path) -> int:
    return int.from_bytes(path.read_bytes(), "little")
