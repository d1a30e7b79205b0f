from __future__ import annotations

from pathlib import Path

from shmq.planner.patterns import LONGEST_GAP_S, Patterns, missed_steps, next_boundary, seconds_of_load
from tests.planner.loads import daily

NOW = 1_700_000_000.0


def test_steps_between_two_times_are_counted_by_their_boundaries():
    assert missed_steps(NOW, NOW + 0.9, 1.0) == 0
    assert missed_steps(NOW + 0.9, NOW + 1.0, 1.0) == 1
    assert missed_steps(NOW, NOW + 90, 60.0) in {1, 2}
    assert missed_steps(0.1 * 17_000_000_003, 0.1 * 17_000_000_010, 0.1) == 7


def test_a_clock_that_was_set_is_not_believed():
    assert missed_steps(NOW, NOW - 5, 1.0) == 0
    assert missed_steps(NOW, NOW + LONGEST_GAP_S + 1, 1.0) == 0
    assert missed_steps(0.0, NOW, 1.0) == 0


def test_the_next_boundary_is_ahead_by_a_step_at_most():
    for now in (NOW, NOW + 0.05, NOW + 0.999):
        assert 0 < next_boundary(now, 0.1) - now <= 0.1 + 1e-5


def test_a_compressed_day_is_a_day_for_the_forecaster():
    assert seconds_of_load(0.1, 4.8) == 1800.0


def test_after_a_pause_the_day_goes_on_in_phase(tmp_path):
    step_s, counts = 1800.0, daily(30, mean=200)
    patterns = Patterns(tmp_path / "patterns", step_s, 86400.0)
    forecaster = patterns.load("network")
    begin = step_s * 1_000_000
    for count in counts[: 20 * 48]:
        forecaster.update(count)
    patterns.save("network", forecaster, begin + 1.0)
    pause = 30  # steps: not a whole day
    loaded = patterns.load("network")
    patterns.resume(loaded, begin + pause * step_s)
    errors = loads = 0.0
    for count in counts[20 * 48 + pause : 24 * 48 + pause]:
        errors += abs(loaded.forecast(1)[0][0] - count)
        loads += count
        loaded.update(count)
    assert 1 - errors / loads > 0.85


def test_a_folder_that_cannot_be_written_costs_the_pattern_only(tmp_path, caplog):
    (tmp_path / "patterns").write_text("in the way")
    patterns = Patterns(tmp_path / "patterns", 1.0, 86400.0)
    for _ in range(2):
        patterns.save("network", patterns.load("network"), NOW)
    assert caplog.text.count("not saved") == 1
    (tmp_path / "patterns").unlink()
    patterns.save("network", patterns.load("network"), NOW)
    assert patterns.load("network").saved_at == NOW


def test_a_folder_that_was_removed_is_made_again(tmp_path):
    patterns = Patterns(tmp_path / "patterns", 1.0, 86400.0)
    for _ in range(2):
        patterns.save("network", patterns.load("network"), NOW)
        patterns.path("network").unlink()
        patterns.path("network").parent.rmdir()
    patterns.save("network", patterns.load("network"), NOW)
    assert patterns.load("network").saved_at == NOW


def test_a_save_that_was_killed_leaves_nothing_for_long(tmp_path, monkeypatch):
    patterns = Patterns(tmp_path / "patterns", 1.0, 86400.0)
    for killed_pid in (101, 102, 103):
        monkeypatch.setattr("os.getpid", lambda pid=killed_pid: pid)
        with monkeypatch.context() as killed:
            for name in ("replace", "unlink"):
                killed.setattr(Path, name, lambda *_, **__: None)
            patterns.save("network", patterns.load("network"), NOW)
    patterns.save("network", patterns.load("network"), NOW)
    assert [path.name for path in (tmp_path / "patterns").iterdir()] == ["network.npz"]
