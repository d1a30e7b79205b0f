from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from perf import budget, functions, harness, rig
from perf.harness import Scenario, Setting
from perf.peers import driver
from perf.scenarios.footprint import growth
from perf.scenarios.latency import open_loop


@pytest.fixture(scope="module")
def running() -> Iterator[rig.Rig]:
    with rig.supervised(2) as found:
        yield found


def test_a_rig_comes_up_with_all_its_workers(running: rig.Rig) -> None:
    assert len(running.worker_pids()) == 2
    assert {pid for pid, _ in running.live_workers()} == running.worker_pids()
    assert all(0 < seconds < rig.START_LIMIT_S for _, seconds in running.live_workers())


def test_the_subject_goes_through_the_same_driver_as_the_peers(running: rig.Rig) -> None:
    assert driver.each(functions.echo, range, window=50)(running.session, 200).metrics["per_s"] > 0
    assert driver.bulk(functions.echo)(running.session, 500).metrics["per_s"] > 0
    assert len(driver.round_trip(functions.echo)(running.session, 20).samples) == 20


def test_cpu_of_the_tree_grows_with_work(running: rig.Rig) -> None:
    before = running.cpu_s()
    driver.each(functions.spin, range, lambda items: [functions.spin(i) for i in items])(running.session, 20)
    assert running.cpu_s() - before > 0.005


def test_the_open_loop_sees_every_job_from_its_due_time(running: rig.Rig) -> None:
    seen = open_loop._drive(running, 100)
    assert len(seen.samples) == 100
    assert min(seen.samples) > 0
    assert seen.metrics["cpu_share"] > seen.metrics["tree_cpu_share"]


def test_many_producers_are_measured_in_processes_of_their_own() -> None:
    with growth._many_producers(3) as measure:
        assert measure(600).metrics["cpu_s"] > 0


def test_a_rig_leaves_no_process_and_no_segment() -> None:
    with rig.supervised(1) as short_lived:
        tree, namespace = short_lived.tree(), short_lived.namespace
        assert list(Path("/dev/shm").glob(f"*{namespace}*"))
    assert not list(Path("/dev/shm").glob(f"*{namespace}*"))
    _, alive = psutil.wait_procs(tree, timeout=10.0)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_supervisor_that_cannot_start_is_told_with_its_log() -> None:
    with (
        pytest.raises(RuntimeError, match=r"status \d+:\n.*max_workers"),
        rig.supervised(1, group={"max_workers": -1}),
    ):
        pass


def test_a_subject_that_fails_to_start_does_not_end_the_run() -> None:
    def open_session() -> object:
        raise RuntimeError("shmq supervise ended with status 1")

    subject = driver.contestant("shmq", "subject", open_session, driver.each(functions.echo, range))  # type: ignore[arg-type]
    outcome = harness.run(Scenario("s", "S", lambda _: [subject], ()), Setting(rounds=2))
    assert outcome.skipped == {"shmq": "RuntimeError: shmq supervise ended with status 1"}


def test_the_budget_adds_up_to_what_was_measured() -> None:
    found = budget.measure(windows=8)
    assert sum(line.seconds for line in found.lines) == pytest.approx(found.total_s)
    assert {line.stage for line in found.lines} == {"submit", "claim", "run + ack", "collect", "processes"}
    assert all(found.bytecodes[stage] > 0 for stage in ("submit", "claim", "run + ack", "collect"))


def test_the_budget_replaces_what_stands_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{budget.BEGIN}old\n{budget.END}\nafter\n")
    lines = [budget.Line("submit", "encode", 1e-6), budget.Line("submit", "own bytecode", 2e-6)]
    budget.write(budget.markdown(budget.Budget(lines, 3e-6, 1e5, {"submit": 190.0})), readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{budget.BEGIN}| stage")
    assert text.endswith(f"{budget.END}\nafter\n")
    assert "| **submit** | | **3.00** | 190 |" in text
    assert "old" not in text


def test_a_readme_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(ValueError, match="put the markers back"):
        budget.write("x", tmp_path / "README.md")


def test_the_readme_has_its_markers() -> None:
    text = budget.README.read_text(encoding="utf-8")
    assert 0 < text.index(budget.BEGIN) < text.index(budget.END)
