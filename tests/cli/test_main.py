from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from shmq import errors
from shmq.cli import exits, main
from shmq.cli.main import COMMANDS, cli


def run(*arguments: str, namespace: str = "nobody-serves-this"):
    return CliRunner().invoke(cli, list(arguments), env={"SHMQ_NAMESPACE": namespace})


def raising(monkeypatch, error: BaseException):
    """What the command line does when a command raises."""

    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "broken", ("nowhere:broken", ""))
    monkeypatch.setattr(main.Commands, "get_command", lambda *_: broken)
    return run("broken")


def test_the_help_names_every_command():
    help_ = run("--help")
    assert help_.exit_code == exits.OK
    assert all(f"  {name} " in help_.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_own_help_begins_with_its_line_in_the_list(name):
    help_ = run(name, "--help")
    assert help_.exit_code == exits.OK
    assert COMMANDS[name][1] in " ".join(help_.output.split())


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"dead", "forecast", "leaks", "soak"}))
def test_every_command_takes_a_namespace(name):
    assert "--namespace" in run(name, "--help").output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["supervise", "--help"], ["stop", "--help"], ["supervise", "none.toml"]]
)
def test_help_and_supervise_load_neither_numpy_nor_rich(arguments):
    code = (
        "import sys\n"
        "from shmq.cli.main import cli\n"
        f"cli({arguments!r}, standalone_mode=False)\n"
        "sys.exit(' '.join({'numpy', 'rich', 'psutil', 'shmq.client.client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() in {
        "",
        'shmq: none.toml: does not exist. One line is enough to begin: tasks = ["your.module"]',
    }


def test_a_misspelt_command_gets_the_nearest_name():
    done = run("stauts")
    assert done.exit_code == exits.USAGE
    assert "there is no command 'stauts'. Did you mean status?" in done.output


def test_what_other_tools_call_a_command_is_not_taken_for_the_nearest_name():
    assert "Did you mean status --watch?" in run("top").output


def test_python_m_shmq_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "shmq", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("shmq, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["tasks"], ["stop"], ["drain"], ["reload"], ["pause", "g"], ["resume", "g"], ["scale", "g", "1"],
        ["limit"], ["map", "a.b"], ["submit", "a.b"], ["dead", "list"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_without_a_supervisor_every_command_says_how_to_start_one(arguments):
    done = run(*arguments)
    assert done.exit_code == exits.NOT_RUNNING
    assert "shmq supervise config.toml" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("namespace", ["../etc", "a/b", "", "x" * 65, "a\x1b[31m", ".hidden"])
def test_a_namespace_that_is_no_name_is_refused(namespace):
    done = run("status", "--namespace", namespace)
    assert done.exit_code == exits.USAGE
    assert "\x1b" not in done.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotRunning("start it"), exits.NOT_RUNNING),
        (errors.ConfigError(["one", "two"]), exits.BAD_CONFIG),
        (errors.UnknownTask("near"), exits.REFUSED),
        (errors.QueueFull("full"), exits.REFUSED),
        (KeyboardInterrupt(), exits.INTERRUPTED),
        (exits.Terminated(), exits.TERMINATED),
        (BrokenPipeError(), exits.CLOSED_PIPE),
        (RuntimeError("odd"), exits.BUG),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_what_a_command_raises_becomes_its_exit_code(monkeypatch, error, code):
    assert raising(monkeypatch, error).exit_code == code


def test_errors_of_shmq_are_shown_without_traceback_and_without_control_characters(monkeypatch):
    done = raising(monkeypatch, errors.ShmqError("group '\x1b[2Jevil' is full\nRaise the slots."))
    assert done.output == "shmq: group '\\x1b[2Jevil' is full\nRaise the slots.\n"


def test_other_errors_show_their_traceback_and_ask_for_a_report(monkeypatch):
    done = raising(monkeypatch, RuntimeError("odd"))
    assert "RuntimeError: odd" in done.output
    assert "this is a bug" in done.output


def test_a_closed_pipe_ends_quietly():
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m shmq --help | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() in {str(exits.OK), str(exits.CLOSED_PIPE), "1"}
    assert "Traceback" not in done.stderr
