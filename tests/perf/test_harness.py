from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from perf import harness
from perf.harness import Contestant, MissingPeer, Observation, Overdue, Scenario, Setting, WrongResult
from perf.results import Role
from perf.verdict import Target

SETTING = Setting(short=True, rounds=3, seconds=0.001)


def a_contestant(name: str, log: list[str], role: Role = "peer", error: Exception | None = None) -> Contestant:
    @contextmanager
    def open_() -> Iterator[Callable[[int], Observation]]:
        log.append(f"open {name}")

        def measure(jobs: int) -> Observation:
            if error is not None:
                raise error
            log.append(f"measure {name} {jobs}")
            return Observation({"per_s": 10.0 if role == "subject" else 5.0}, [0.1] * jobs)

        yield measure
        log.append(f"close {name}")

    return Contestant(name, role, open_, jobs=4)


def a_scenario(*contestants: Contestant) -> Scenario:
    return Scenario("s", "S", lambda _: list(contestants), (Target("t", "per_s", 1, 2, against="b"),))


def test_every_round_measures_everyone_and_turns_the_order() -> None:
    log: list[str] = []
    harness.run(a_scenario(a_contestant("shmq", log, "subject"), a_contestant("b", log)), SETTING)
    assert [line.split()[1] for line in log if line.startswith("measure")] == [
        "shmq",
        "b",
        "b",
        "shmq",
        "shmq",
        "b",
    ]


def test_nobody_is_open_while_another_is_measured() -> None:
    log: list[str] = []
    harness.run(a_scenario(a_contestant("shmq", log, "subject"), a_contestant("b", log)), SETTING)
    for begin in range(0, len(log), 3):
        assert [line.split()[0] for line in log[begin : begin + 3]] == ["open", "measure", "close"]
        assert len({line.split()[1] for line in log[begin : begin + 3]}) == 1


def test_rounds_become_one_ratio() -> None:
    outcome = harness.run(a_scenario(a_contestant("shmq", [], "subject"), a_contestant("b", [])), SETTING)
    (check,) = outcome.checks
    assert check.ratio is not None
    assert check.ratio.median == 2.0
    assert outcome.entries[0].samples == [0.1] * 12


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingPeer("not installed (pip install b)"), "not installed (pip install b)"),
        (ValueError("x"), "ValueError: x"),
    ],
)
def test_a_contestant_that_cannot_run_is_skipped_by_name_and_the_others_go_on(error: Exception, reason: str) -> None:
    log: list[str] = []
    outcome = harness.run(
        a_scenario(a_contestant("shmq", log, "subject"), a_contestant("b", log, error=error)), SETTING
    )
    assert outcome.skipped == {"b": reason}
    assert outcome.checks[0].skipped == reason
    assert len(outcome.entries[0].metrics["per_s"]) == 3
    assert log.count("open b") == 1


def test_a_wrong_result_is_no_measurement() -> None:
    outcome = harness.run(a_scenario(a_contestant("shmq", [], "subject", WrongResult("job 3: got 4"))), SETTING)
    assert outcome.entries == []
    assert outcome.checks[0].error == "WrongResult: job 3: got 4"


def test_results_are_verified_by_place_and_number() -> None:
    harness.verify([1, 2, 3], range(1, 4))
    with pytest.raises(WrongResult, match="2 results for 3 jobs"):
        harness.verify([1, 2], [1, 2, 3])
    with pytest.raises(WrongResult, match="job 1: got 9, expected 2"):
        harness.verify([1, 9, 3], [1, 2, 3])


@pytest.mark.parametrize("jobs", [0, 1, 7, 8, 9, 100])
def test_the_rolling_window_reads_everything_in_order_and_is_never_exceeded(jobs: int) -> None:
    unread, most = 0, 0

    def submit(item: object) -> object:
        nonlocal unread, most
        unread += 1
        most = max(most, unread)
        return item

    def read(handle: object) -> object:
        nonlocal unread
        unread -= 1
        return handle

    assert harness.rolling(submit, read, range(jobs), 8) == list(range(jobs))
    assert unread == 0
    assert most == min(jobs, 8)


def test_jobs_are_counted_until_they_fill_the_time() -> None:
    now = 0.0

    def perf_counter() -> float:
        return now

    def measure(jobs: int) -> Observation:
        nonlocal now
        now += jobs / 1000
        return Observation({})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perf.harness.time.perf_counter", perf_counter)
        assert harness._jobs_that_fill(measure, 2.0, 10**6) == pytest.approx(2000, abs=1)
        assert harness._jobs_that_fill(measure, 2.0, 300) == 300


def test_a_measurement_that_hangs_is_ended_by_its_deadline() -> None:
    import threading

    with pytest.raises(Overdue, match="ray did not finish"), harness.deadline(0.05, "ray"):
        threading.Event().wait(30.0)


def test_waiting_for_a_quiet_machine_ends_on_one_that_never_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 0.0, 0

    def sleep(seconds: float) -> None:
        nonlocal now, looks
        now += seconds
        looks += 1

    monkeypatch.setattr("perf.machine.time.sleep", sleep)
    monkeypatch.setattr("perf.machine.time.monotonic", lambda: now)
    monkeypatch.setattr("perf.machine._idle_ticks", lambda: (0, looks * 20))
    calm = harness.Calm(1.0)
    assert calm.wait() == 1.0
    assert calm.left_s == 0.0
    assert now == pytest.approx(1.0)
    assert calm.wait() == 1.0
    assert now == pytest.approx(1.2)


def test_on_a_quiet_machine_one_look_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([(0, 0), (19, 20)])
    monkeypatch.setattr("perf.machine.time.sleep", lambda _: None)
    monkeypatch.setattr("perf.machine._idle_ticks", lambda: next(looks))
    assert harness.Calm(60.0).wait() == pytest.approx(0.05)
