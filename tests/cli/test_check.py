from __future__ import annotations

import textwrap

import msgspec
import pytest
from click.testing import CliRunner

from shmq.cli import exits
from shmq.cli.main import cli
from shmq.config.load import parse
from shmq.observe import litmus

MODULE = """
import shmq

@shmq.task
def one(x): ...

@shmq.task(group="{group}")
def two(x): ...
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(config: str, *options: str, module: str = "", name: str = "checked"):
        path = tmp_path / "config.toml"
        path.write_text(textwrap.dedent(config))
        path.chmod(0o600)
        if module:
            (tmp_path / f"{name}.py").write_text(module)
        return CliRunner().invoke(cli, ["check", str(path), *options], env={"SHMQ_NAMESPACE": None})

    return run


def test_the_values_in_force_are_shown_as_toml_that_can_be_used(check):
    done = check("[groups.g]\nmin_workers = 0\n")
    assert done.exit_code == exits.OK
    assert parse(done.output) == parse("[groups.g]\nmin_workers = 0\n")
    assert "# segment: 50.5 MiB; /dev/shm has" in done.output


def test_the_tasks_of_the_modules_are_counted_by_group(check):
    done = check('tasks = ["counted"]', module=MODULE.format(group="network"), name="counted")
    assert done.exit_code == exits.OK
    assert "# tasks: 2 (computation 1, network 1)" in done.output


def test_a_task_of_a_group_that_does_not_exist_is_a_problem(check):
    done = check('tasks = ["lost"]', module=MODULE.format(group="netwrok"), name="lost")
    assert done.exit_code == exits.BAD_CONFIG
    assert "task lost.two asks for group 'netwrok', which the configuration lacks; did you mean network?" in done.output


def test_a_module_that_fails_to_import_shows_its_traceback(check):
    done = check('tasks = ["failing"]', module="import no_such_thing", name="failing")
    assert done.exit_code == exits.BAD_CONFIG
    assert "a task module cannot be imported" in done.output
    assert "importlib" not in done.output
    assert "No module named 'no_such_thing'" in done.output
    assert check('tasks = ["failing"]', "--no-import").exit_code == exits.OK


def test_a_file_instead_of_a_module_is_told(check):
    done = check('tasks = ["fine.py"]', module=MODULE.format(group="network"), name="fine")
    assert done.exit_code == exits.BAD_CONFIG
    assert "`tasks` names modules, not files: 'fine'." in done.output


def test_a_declaration_that_cannot_mean_anything_is_told_with_its_line(check):
    done = check(
        'tasks = ["odd"]', module='import shmq\n\n@shmq.task(retry_on=["OSError"])\ndef f(): ...\n', name="odd"
    )
    assert done.exit_code == exits.BAD_CONFIG
    assert "line 3" in done.output
    assert "task odd.f: retry_on must be an exception type" in done.output


def test_tables_that_no_task_matches_are_told(check):
    text = 'tasks = ["idle"]\n[limits."idle.oen"]\nrate_per_s = 1\n[limits."idle.*"]\nrate_per_s = 1\n'
    text += '[[routes]]\ntask = "other.*"\ngroup = "network"\n'
    done = check(text, module=MODULE.format(group="network"), name="idle")
    assert done.exit_code == exits.OK
    assert 'no task matches [limits."idle.oen"]: it does nothing. Did you mean idle.one?' in done.stderr
    assert 'no task matches [[routes]] with task = "other.*"' in done.stderr
    assert "idle.*" not in done.stderr


def test_all_problems_of_a_configuration_are_told_at_once(check):
    done = check("tasks = 3\n[groups.g]\nmin_worker = 1\nmax_batch = 0\n")
    assert done.exit_code == exits.BAD_CONFIG
    assert "did you mean min_workers" in done.output
    assert "max_batch" in done.output
    assert "expected tasks" in done.output
    assert "Traceback" not in done.output


def test_a_segment_that_does_not_fit_is_refused_with_the_missing_bytes(check):
    done = check("[memory]\nblock_budget_bytes = 17592186044416\nblock_unit_bytes = 1048576\n")
    assert done.exit_code == exits.REFUSED
    assert "bytes are missing" in done.output
    assert "--shm-size" in done.output


def test_programs_get_json_that_prints_of_a_module_do_not_disturb(check):
    done = check('tasks = ["loud"]', "--json", module="print('hello')" + MODULE.format(group="network"), name="loud")
    report = msgspec.json.decode(done.stdout)
    assert report["tasks"] == ["loud.one", "loud.two"]
    assert report["problems"] == []
    assert report["missing_bytes"] == 0
    assert report["config"]["namespace"] == "default"


def test_a_namespace_of_the_environment_is_told(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('namespace = "mine"\n')
    path.chmod(0o600)
    done = CliRunner().invoke(cli, ["check", str(path)], env={"SHMQ_NAMESPACE": "other"})
    assert done.stderr == (
        "shmq check: SHMQ_NAMESPACE wins: the namespace is 'other', not 'mine' as in the configuration\n"
    )
    assert 'namespace = "other"' in done.stdout
    assert not CliRunner().invoke(cli, ["check", str(path), "-n", "other"], env={"SHMQ_NAMESPACE": None}).stderr


def test_a_configuration_or_a_litmus_must_be_asked_for():
    assert CliRunner().invoke(cli, ["check"]).exit_code == exits.USAGE


# -- litmus ------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [litmus.FENCED, litmus.MESSAGE], ids=lambda test: test.title)
def test_the_orders_that_shmq_needs_hold_on_this_machine(test):
    outcome = litmus.run(test, seconds=0.5)
    assert outcome.rounds > 0
    assert outcome.forbidden == 0


def test_a_broken_order_is_told_by_the_exit_code(monkeypatch):
    monkeypatch.setattr(litmus, "run", lambda *_, **__: litmus.Outcome(1000, 3))
    monkeypatch.setattr("shmq.probes.cpu_count", lambda: 2)
    done = CliRunner().invoke(cli, ["check", "--litmus"])
    assert done.exit_code == exits.FAILED
    assert "store buffering, with the fence: 3 of 1000 rounds out of order, BROKEN" in done.output
    assert "so the test bites" in done.output


def test_rounds_in_which_both_sides_missed_are_counted():
    words = memoryview(bytearray(8 * (litmus._SEEN + 2 * litmus._ROUNDS))).cast("Q")
    for i in range(1, litmus._ROUNDS + 1):
        words[litmus._SEEN + 2 * i - 2] = words[litmus._SEEN + 2 * i - 1] = i
    assert litmus._both_missed(words) == 0
    words[litmus._SEEN] = words[litmus._SEEN + 1] = 0  # round 1: both read the old value
    words[litmus._SEEN + 2] = 1  # round 2: one side only
    assert litmus._both_missed(words) == 1
