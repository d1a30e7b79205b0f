from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from perf.present import plot, table
from perf.results import FORMAT, Entry, Machine, Outcome, Run
from perf.verdict import Target, compare, judge

pytest.importorskip("matplotlib")


@pytest.fixture
def run() -> Run:
    entries = [
        Entry(
            "shmq",
            "subject",
            {"per_s": [3e5, 3.2e5], "p50_s": [6e-5, 6e-5], "p99_s": [9e-5, 9e-5]},
            [6e-5, 7e-5, 9e-5],
        ),
        Entry("Pool.apply_async", "peer", {"per_s": [3e4, 3e4]}),
        Entry("floor (a)", "floor", {"per_s": [1e6, 1e6]}),
    ]
    skipped = {"ray.remote": "not installed (pip install ray)"}
    targets = [
        Target("echo", "per_s", 35, 90, against="Pool.apply_async"),
        Target("echo", "per_s", 0.2, 0.5, against="floor (a)"),
        Target("echo", "per_s", 1, 2, against="ray.remote"),
    ]
    outcome = Outcome("echo", "echo, each result read", entries, [judge(t, entries, skipped) for t in targets], skipped)
    machine = Machine("some cpu", 2, "6.1", "CPython 3.11", 1 << 30, {}, 0.1)
    return Run(FORMAT, "2030-01-01T00:00:00+00:00", True, 1e6, machine, [outcome])


def printed(*things: object) -> str:
    out = StringIO()
    Console(file=out, width=160).print(*things)
    return out.getvalue()


def test_the_table_shows_ratio_limit_aim_and_mark(run: Run) -> None:
    text = printed(table.targets(run))
    failed = next(line for line in text.splitlines() if "Pool.apply_async" in line)
    passed = next(line for line in text.splitlines() if "floor (a)" in line)
    assert all(part in failed for part in ("10.3×", "≥ 35×", "≥ 90×", "✘"))
    assert all(part in passed for part in ("0.31×", "≥ 0.2×", "≥ 0.5×", "✔"))


def test_an_absent_peer_is_named_in_both_tables(run: Run) -> None:
    assert "skipped: not installed (pip install ray)" in printed(table.targets(run))
    assert "ray.remote: not installed (pip install ray)" in printed(table.measured(run.outcomes[0]))


def test_a_comparison_names_what_changed(run: Run) -> None:
    assert "same" in printed(table.comparison(compare(run, run)))


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (312_345.6, "per_s", "312,346/s"),
        (63e-6, "p50_s", "63 µs"),
        (0.0123, "start_s", "12.3 ms"),
        (2.5, "start_s", "2.5 s"),
        (3 << 20, "worker_bytes", "3.00 MiB"),
        (0.123, "cpu_share", "12.30%"),
    ],
)
def test_figures_carry_the_unit_of_their_metric(value: float, metric: str, text: str) -> None:
    assert table.quantity(value, metric) == text


def test_plots_are_written_as_png_and_svg(run: Run, tmp_path: Path) -> None:
    files = plot.draw(run, tmp_path / "plots")
    assert sorted(path.name for path in files) == [
        "echo-latency.png",
        "echo-latency.svg",
        "echo-throughput.png",
        "echo-throughput.svg",
    ]
    for path in files:
        begin = path.read_bytes()[:200]
        assert begin.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in path.read_bytes()[:2000], path
