from __future__ import annotations

from pathlib import Path

import pytest

from perf.results import (
    FORMAT,
    Check,
    Entry,
    Machine,
    Outcome,
    Run,
    Spread,
    load,
    paired_ratio,
    quantile,
    save,
    thin,
)


def test_a_quantile_lies_between_its_neighbours() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([5.0], 0.99) == 5.0
    assert quantile(range(101), 0.95) == pytest.approx(95)


def test_a_quantile_of_nothing_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)


def test_a_spread_ignores_one_outlier_of_seven() -> None:
    spread = Spread.of([10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 500.0])
    assert spread.median == 10.0
    assert spread.relative < 0.02


def test_thinned_samples_keep_both_ends_and_the_median() -> None:
    samples = [float(i) for i in range(100_000)]
    kept = thin(samples)
    assert len(kept) == 2001
    assert (kept[0], kept[-1]) == (0.0, 99_999.0)
    assert quantile(kept, 0.5) == pytest.approx(quantile(samples, 0.5), rel=1e-3)


def test_few_samples_are_kept_as_they_are_in_order() -> None:
    assert thin([3.0, 1.0, 2.0]) == [1.0, 2.0, 3.0]


def test_a_host_that_slows_down_both_changes_no_paired_ratio() -> None:
    slowdown = [1.0, 3.0, 0.5, 2.0, 1.5]
    ratio = paired_ratio([100 / s for s in slowdown], [25 / s for s in slowdown])
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((4.0, 4.0, 4.0))


def test_one_bad_round_of_three_changes_no_ratio() -> None:
    assert paired_ratio([100.0, 1.0, 100.0], [10.0, 10.0, 10.0]).median == 10.0


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rounds of the subject against 2"):
        paired_ratio([1.0, 2.0, 3.0], [1.0, 2.0])


def test_a_run_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    check = Check("echo", "per_s", "floor", "higher", 0.2, 0.5, "×", Spread(0.3, 0.2, 0.4))
    entry = Entry("shmq", "subject", {"per_s": [1.0, 2.0]}, [0.1, 0.2], 64)
    outcome = Outcome("echo", "echo", [entry], [check], {"ray": "not installed"})
    machine = Machine("cpu", 2, "6.1", "CPython 3.11", 1 << 30, {"numpy": "2"}, 0.1)
    run = Run(FORMAT, "2030-01-01T00:00:00+00:00", True, 1e6, machine, [outcome])
    save(run, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == run


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "one"}', "\xff"])
def test_a_file_that_is_no_run_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="not a saved run"):
        load(path)


def test_a_run_of_another_format_is_refused(tmp_path: Path) -> None:
    machine = Machine("cpu", 2, "6.1", "CPython 3.11", 1 << 30, {}, 0.1)
    save(Run(FORMAT + 1, "", True, 1e6, machine, []), tmp_path / "run.json")
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}"):
        load(tmp_path / "run.json")
