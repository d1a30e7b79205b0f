from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from perf import rig, scenarios
from perf.__main__ import main
from perf.scenarios.footprint.idle import private_bytes
from perf.scenarios.latency.head_of_line import Ran, idle_while_waiting

FOLDER = Path(scenarios.__file__).parent


def test_every_scenario_file_is_listed_and_draws_its_topology() -> None:
    files = {path for path in FOLDER.glob("*/*.py") if path.name != "__init__.py"}
    assert {FOLDER / (module.replace(".", "/") + ".py") for module in scenarios.MODULES} == files
    for path in files:
        drawing = path.read_text().split('"""')[1]
        assert any(sign in drawing for sign in ("──▶", "─▶", " ─ ")), path


def test_a_scenario_that_nobody_has_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown scenario eco; known: echo, map"):
        scenarios.load(["eco"])


def test_the_command_lists_scenarios_and_peers() -> None:
    result = CliRunner().invoke(main, ["--list"])
    assert result.exit_code == 0
    assert "head-of-line" in result.output
    assert "ProcessPoolExecutor.submit   ready" in result.output


@pytest.mark.parametrize(
    "arguments", [["eco"], ["--peers", "huey"], ["--against", __file__], ["--save", "/no/folder/run.json"]]
)
def test_the_command_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert any(why in result.output for why in ("known", "not a saved run", "there is no folder"))


def test_a_rig_config_holds_the_changes_of_its_scenario(tmp_path: Path) -> None:
    text = rig.config("perf-x", tmp_path, 3, {"group": {"max_batch": 7}, "memory": {"slot_bytes": 1024}})
    from shmq.config.load import parse

    config = parse(text)
    group = config.groups["computation"]
    assert (group.min_workers, group.max_workers, group.mode, group.max_batch) == (3, 3, "fixed", 7)
    assert (config.memory.slot_bytes, config.tasks, config.namespace) == (1024, ("perf.tasks",), "perf-x")


def test_a_wait_counts_only_as_far_as_a_worker_idled() -> None:
    jobs = [
        Ran(0.0, 1, 0.0, 1.0),  # the long one
        Ran(0.0, 2, 0.0, 0.2),
        Ran(0.1, 1, 1.0, 1.001),  # behind the long one while worker 2 idles from 0.2 to 0.9
        Ran(0.9, 2, 0.9, 0.901),
    ]
    assert idle_while_waiting(jobs, 2) == pytest.approx([0.0, 0.0, 0.7 + 0.099, 0.0], abs=1e-9)


def test_waiting_while_all_are_busy_is_no_fault() -> None:
    jobs = [Ran(0.0, 1, 0.0, 1.0), *(Ran(0.0, 2, i / 10, (i + 1) / 10) for i in range(10))]
    assert max(idle_while_waiting(jobs, 2)) == 0.0


def test_a_worker_that_never_worked_idled_all_the_time() -> None:
    jobs = [Ran(0.0, 1, 0.0, 0.5), Ran(0.0, 1, 0.5, 1.0)]
    assert idle_while_waiting(jobs, 2) == pytest.approx([0.0, 0.5])


def test_private_memory_leaves_out_the_shared_segment() -> None:
    smaps = """\
55d0-55d1 rw-p 00000000 00:00 0                          [heap]
Private_Clean:         4 kB
Private_Dirty:       100 kB
7f00-7f10 rw-s 00000000 00:01 1034                       /dev/shm/shmq-1000-default
Private_Clean:         0 kB
Private_Dirty:      9000 kB
7f20-7f30 r-xp 00000000 08:01 55                         /usr/lib/libc.so.6
Private_Clean:        16 kB
Private_Dirty:         0 kB
""".splitlines()
    assert private_bytes(smaps) == 120 * 1024
