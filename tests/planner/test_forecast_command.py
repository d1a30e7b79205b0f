from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from shmq.cli.main import cli
from tests.planner.loads import daily


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "requests.csv"
    counts = "\n".join(f"{count:g}" for count in daily(10, mean=80))
    path.write_text(f"# step_seconds: 1800\ncount\n{counts}\n")
    return path


def run(*arguments):
    return CliRunner().invoke(cli, ["forecast", "backtest", *map(str, arguments)])


def test_the_report_has_each_horizon_and_each_way_of_scaling(history):
    done = run(history, "--max-workers", 8)
    assert done.exit_code == 0, done.output
    words = {line.split()[0] for line in done.output.splitlines() if line.strip()}
    assert {"1", "5", "15", "predictive", "reactive", "fixed", "oracle"} <= words


def test_the_numbers_come_as_json_too(history):
    found = json.loads(run(history, "--max-workers", 8, "--service-s", 60, "--json").output)
    assert found["service_s"] == 60
    assert found["target_wait_s"] == 30
    assert [score["horizon"] for score in found["accuracy"]] == [1, 5, 15]
    runs = {run["name"]: run for run in found["runs"]}
    assert max(runs["predictive"]["workers"]) <= 8
    assert len(runs["oracle"]["workers"]) == len(found["counts"]) == len(found["mean"])


def test_a_step_on_the_command_line_counts_more_than_the_file_s(history):
    assert json.loads(run(history, "--step", 60, "--json").output)["step_s"] == 60


def test_a_picture_is_drawn(history, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(history, "--plot", tmp_path / "out.png").exit_code == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot be written" in run(history, "--plot", tmp_path / "none" / "out.png").output


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1\n2\n", "does not say how long a step is"),
        ("# step_seconds: 60\n1\n2\n", "at least 100"),
        ("# step_seconds: 60\n" + "1\n" * 200 + "x\n", "line 202"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path, content, says):
    path = tmp_path / "counts.csv"
    path.write_text(content)
    done = run(path)
    assert done.exit_code
    assert says in done.output


def test_more_workers_at_least_than_at_most_are_refused(history):
    done = run(history, "--min-workers", 9, "--max-workers", 3)
    assert done.exit_code == 2
    assert "9 is more than --max-workers 3" in done.output
