"""README: its tour runs and shows what it says, its names and links exist.

A block that begins with the comment `# name.py` or `# name.toml` becomes that file. The other python blocks are
one interactive session, the console blocks one shell. `...` in an output stands for anything. A command that
ends with `&` is the supervisor: it goes on while the rest is read.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmq
from shmq.cli import exits
from shmq.cli.main import COMMANDS
from shmq.tasks.task import PRODUCER_OPTIONS, Options
from tests.docs.fences import ROOT, Block, between, blocks, links, section, table
from tests.live import GUARD_S, LiveSupervisor, until

README = (ROOT / "README.md").read_text()
TOUR = blocks(between(README, "<!-- tour: begin", "<!-- tour: end -->"))
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_RUN = """
import doctest, sys
text, line = open(sys.argv[1]).read(), int(sys.argv[2])
names = {"__name__": "tour"}
test = doctest.DocTestParser().get_doctest(text, names, "README.md", "README.md", line)
runner = doctest.DocTestRunner(optionflags=int(sys.argv[3]), verbose=False)
runner.run(test)
sys.exit(runner.failures)
"""


class Tour:
    """An empty folder with a shell in it, and the supervisor that README starts there."""

    def __init__(self, folder: Path, live: LiveSupervisor) -> None:
        self.folder, self.live = folder, live
        self.supervisor: subprocess.Popen[bytes] | None = None
        tools = folder / "tools"
        tools.mkdir()
        for name, words in (("shmq", "-m shmq"), ("python", "")):  # as an installed shmq would be found
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            (tools / name).chmod(0o700)
        self.env = {
            **live.env, "PATH": f"{tools}:{os.environ['PATH']}", "SHMQ_NAMESPACE": live.namespace,
            "PYTHONPATH": f"{folder}:{ROOT}", "COLUMNS": "120",
        }  # fmt: skip

    def write(self, block: Block) -> None:
        path = self.folder / block.file
        path.write_text(block.text)
        path.chmod(0o600)

    def console(self, block: Block) -> None:
        for command, shown in _commands(block.text):
            if command.endswith("&"):
                self._supervise(command.removesuffix("&").strip())
            else:
                self._compare(command, shown, block)

    def _compare(self, command: str, shown: str, block: Block) -> None:
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"], cwd=self.folder, env=self.env, capture_output=True, text=True,
            check=False, timeout=GUARD_S,
        )  # fmt: skip
        assert doctest.OutputChecker().check_output(shown, done.stdout, _FLAGS), (
            f"README.md, block of line {block.line}: `{command}` printed\n{done.stdout}\ninstead of\n{shown}\n"
            f"{self.live.log()}"
        )

    def _supervise(self, command: str) -> None:
        with self.live.log_path.open("ab") as log:
            self.supervisor = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until(self._is_ready, "the supervisor of README is ready")

    def _is_ready(self) -> bool:
        assert self.supervisor is not None
        assert self.supervisor.poll() is None, self.live.log()
        return re.search(r"\d+ tasks of .* are ready", self.live.log()) is not None

    def has_ended(self) -> bool:
        """Was the supervisor stopped in order?"""
        return self.supervisor is not None and self.supervisor.poll() == 0

    def kill(self) -> None:
        """After a failure: end it whatever it does."""
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.kill()
            self.supervisor.wait()

    def session(self, parts: list[Block]) -> None:
        """Interactive blocks that follow each other, in one interpreter."""
        text = "\n".join(part.text for part in parts)
        (self.folder / "session.txt").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", _RUN, "session.txt", str(parts[0].line - 1), str(_FLAGS)],
            cwd=self.folder, env=self.env, capture_output=True, text=True, check=False,
            timeout=GUARD_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.live.log()}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, what is shown below it) of each line with a prompt."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command.strip(), shown


@pytest.fixture
def tour(tmp_path: Path) -> Iterator[Tour]:
    folder = tmp_path / "tour"
    folder.mkdir()
    live = LiveSupervisor(tmp_path)  # never started: its namespace, its log, its look at what is left
    walk = Tour(folder, live)
    try:
        yield walk
        if walk.has_ended():
            live.assert_nothing_left()
    finally:
        walk.kill()
        live.discard()


def test_the_tour_runs_and_shows_what_it_says(tour):
    waiting: list[Block] = []
    for block in TOUR:
        if block.language == "python" and not block.file:
            waiting.append(block)
            continue
        if block.language == "console" and waiting:  # files may be written before the session begins
            tour.session(waiting)
            waiting = []
        if block.file:
            tour.write(block)
        else:
            tour.console(block)
    assert not waiting, "the tour ends with `shmq stop`"
    until(tour.has_ended, f"the supervisor has ended; its log:\n{tour.live.log()}")


def test_the_tour_is_a_tour():
    assert {block.language for block in TOUR} == {"python", "toml", "console"}
    assert sum(">>>" in block.text for block in TOUR) >= 6
    assert [block for block in TOUR if block.language == "toml" and not block.file] == []


def test_a_wrong_output_is_noticed(tmp_path):
    live = LiveSupervisor(tmp_path)
    folder = tmp_path / "tour"
    folder.mkdir()
    walk = Tour(folder, live)
    with pytest.raises(AssertionError, match="printed"):
        walk.console(Block("console", "$ echo 3\n4\n", 1))
    with pytest.raises(AssertionError, match="Expected"):
        walk.session([Block("python", ">>> 1 + 1\n3\n", 1)])
    walk.console(Block("console", "$ echo one; echo two\none\n...\n", 1))


def test_every_python_block_outside_the_tour_is_python():
    for block in blocks(README):
        if block.language == "python" and ">>>" not in block.text:
            compile(textwrap.dedent(block.text), f"README.md:{block.line}", "exec")


@pytest.mark.parametrize("target", links(README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_the_two_commands_exist():
    for script in set(re.findall(r"\bscripts/[\w-]+", README)):
        assert os.access(ROOT / script, os.X_OK), script


def test_every_command_is_told_and_no_other():
    rows = table(section(README, "The command line at a glance"))
    told = {name for row in rows for name in re.findall(r"\bshmq (\w+)", row[0])}
    assert told == set(COMMANDS)


def test_exit_codes_are_those_of_the_command_line():
    told = {int(code) for code in re.findall(r"\b(\d+) \w", between(README, "Exit codes:", "## Performance"))}
    assert told == {value for name, value in vars(exits).items() if name.isupper()}


def test_every_public_name_is_told_and_every_told_name_exists():
    part = section(README, "The API at a glance")
    told = set(re.findall(r"\bshmq\.(\w+)", re.sub(r'"[^"]*"', "", part)))
    assert told <= set(shmq.__all__)
    kinds = {"Client", "Job", "Task", "ShmqError", "TaskTimeout", "__version__"}  # met as objects, not called
    assert set(shmq.__all__) - told <= kinds


def test_the_options_told_are_those_there_are():
    part = section(README, "The API at a glance")
    declared, single = (re.search(rf"`{re.escape(call)}\((.*?)\)`", part) for call in ("@shmq.task", "task.options"))
    assert declared
    assert single
    names = [set(re.findall(r"(\w+)=", found[1])) for found in (declared, single)]
    assert names[1] == set(PRODUCER_OPTIONS)
    assert names[0] == set(Options.__dataclass_fields__) - {"delay", "eta", "block"}


def test_promises_are_told_by_number_without_a_gap():
    part = section(README, "Promises")
    told = {int(n) for row in table(part) for n in re.findall(r"P(\d+)", row[0])}
    assert told == set(range(1, 19))


def test_no_figure_is_invented():
    """Throughput and latency stand in perf/README.md, where they are measured."""
    assert re.findall(r"\d+ ?(?:µs|jobs/s|×)", README.partition("<!-- figures -->")[0]) == []
