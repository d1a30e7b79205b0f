from __future__ import annotations

import os
import signal
import subprocess

import msgspec
import pytest

from shmq.cli import exits
from shmq.transport.dead import DeadLetter, DeadLetters
from shmq.wire.header import CALL, VARIADIC
from tests.live import until

# -- submit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["jobs.echo", "text"], '"text"\n'),
        (["jobs.echo", "[1]"], '"[1]"\n'),
        (["--json", "jobs.echo", "[1, null]"], "[1,null]\n"),
        (["--json", "jobs.pair", "3"], "[3,2]\n"),
        (["--json", "jobs.pair", "-k", "b=5", "-k", "a=4"], "[4,5]\n"),
        (["jobs.echo", "-k", "x=a=b"], '"a=b"\n'),
        (["--priority", "1", "--timeout", "9", "--retries", "0", "--expires", "60", "jobs.echo", "a"], '"a"\n'),
        (["--delay", "0.1", "jobs.echo", "a"], '"a"\n'),
        (["jobs.pair", "3", "-k", "b=4"], "[3,4]\n"),
        (["jobs.typed", "7", "2.5", "no"], "[7,2.5,false]\n"),
        (["jobs.typed", "-k", "share=1e3", "--", "-7"], "[-7,1000.0,true]\n"),
    ],
    ids=str,
)
def test_a_submitted_job_shows_its_result_as_json(shmq, arguments, shown):
    done = shmq("submit", *arguments)
    assert (done.exit_code, done.output) == (exits.OK, shown)


def test_a_job_that_fails_shows_its_error(shmq):
    done = shmq("submit", "jobs.boom", "x")
    assert (done.exit_code, done.output) == (exits.FAILED, "shmq submit: ValueError: no x\n")
    assert 'raise ValueError(f"no {x}")' in shmq("submit", "-v", "jobs.boom", "x").output


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["jobs.ecco", "x"], exits.REFUSED, "Did you mean jobs.echo?"),
        (["--json", "jobs.echo", "text"], exits.USAGE, "Text in JSON needs quotes"),
        (["jobs.echo", "-k", "novalue"], exits.USAGE, "NAME=VALUE"),
        (["jobs.echo", "--priority", "6", "x"], exits.USAGE, "priority"),
        (["jobs.pair", "text"], exits.USAGE, "argument 'a' must be a whole number, got 'text'."),
        (["jobs.typed", "1", "2", "maybe"], exits.USAGE, "argument 'is_fast' must be true or false, got 'maybe'."),
        (["jobs.summed", "1"], exits.FAILED, "needs --json"),
        (["jobs.echo", "a", "b"], exits.FAILED, "too many positional arguments"),
        (["--patience", "0.05", "--json", "jobs.note", '"/dev/null"', "1"], exits.FAILED, "no result within 0.05 s"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_job_is_told(shmq, arguments, code, told):
    done = shmq("submit", *arguments)
    assert done.exit_code == code
    assert told in done.output


def test_a_job_that_waits_says_why_and_is_cancelled_by_sigterm(shmq, tmp_path):
    assert shmq("pause", "computation").exit_code == exits.OK
    try:
        process = shmq.start("submit", "jobs.note", str(tmp_path / "ran"))
        told = process.stderr.readline()
        assert told == b"shmq submit waits: group computation: paused, 1 job waiting (shmq resume computation)\n"
        process.send_signal(signal.SIGTERM)
        assert (process.communicate(timeout=60), process.returncode) == ((b"", b""), exits.TERMINATED)
    finally:
        assert shmq("resume", "computation").exit_code == exits.OK
    assert shmq("submit", "jobs.echo", "next").exit_code == exits.OK
    assert not (tmp_path / "ran").exists()


def test_without_waiting_only_the_id_is_shown(shmq, tmp_path):
    done = shmq("submit", "--no-wait", "jobs.note", str(tmp_path / "ran"))
    assert done.exit_code == exits.OK
    assert all(int(part, 16) >= 0 for part in done.output.strip().split("-"))
    until((tmp_path / "ran").exists, "the job runs")


# -- looking -----------------------------------------------------------------------------


def test_tasks_are_listed_with_signature_and_options(shmq):
    listing = shmq("tasks").output
    assert "jobs.pair(a: int, b: int = 2) -> list[int]\n    Both numbers." in listing
    note = next(line for line in listing.splitlines() if line.startswith("jobs.note "))
    assert note.split() == ["jobs.note", "computation", "3", "·", "30", "s", "yes"]


def test_tasks_can_be_chosen_by_pattern_and_read_by_programs(shmq):
    infos = msgspec.json.decode(shmq("tasks", "--json", "*.p*").output)
    assert [info["name"] for info in infos] == ["jobs.pair"]
    assert infos[0]["options"]["group"] == "computation"
    assert "no task matches" in shmq("tasks", "nothing.*").output


def test_status_shows_groups_workers_producers_and_memory(shmq):
    shmq("submit", "jobs.echo", "x")
    shown = shmq("status", "-v").output
    assert f"supervisor pid {shmq.live.pid}, epoch 1" in shown
    assert any(line.startswith("computation  2 of 2-2, ") for line in shown.splitlines())
    assert sum(line.split()[2:3] == ["computation"] for line in shown.splitlines()) == 2


def test_status_for_programs_is_one_snapshot(shmq):
    assert shmq("submit", "jobs.echo", "x").exit_code == exits.OK
    snapshot = msgspec.json.decode(shmq("status", "--json").output)
    assert snapshot["groups"][0]["service"]["mean_s"] > 0
    assert snapshot["supervisor_pid"] == shmq.live.pid
    assert [group["name"] for group in snapshot["groups"]] == ["computation", "network"]
    assert snapshot["memory"]["block_bytes"] == 4 << 20


def test_health_is_the_exit_code_and_the_reason(shmq):
    until(lambda: shmq("status", "--health").exit_code == exits.OK, "all is well")
    shmq("pause", "network")
    try:
        done = shmq("status", "--health")
        assert (done.exit_code, done.output) == (
            exits.FAILED, "group network: paused, 0 jobs waiting; shmq resume network\n",
        )  # fmt: skip
        problems = msgspec.json.decode(shmq("status", "--health", "--json").output)
        assert [(problem["kind"], problem["group"]) for problem in problems] == [("paused", "network")]
    finally:
        shmq("resume", "network")
    assert shmq("status", "--health").output == "every group can make progress\n"


def test_watching_into_a_file_goes_on_until_interrupted(shmq):
    process = shmq.start("status", "--watch", "--every", "0.05", "--json")
    lines = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    process.communicate()
    assert all(msgspec.json.decode(line)["groups"] for line in lines)


def test_output_that_nobody_reads_ends_a_command_quietly(shmq):
    reader, writer = os.pipe()
    os.close(reader)
    env = shmq.env | {"PYTHONUNBUFFERED": ""}  # as users have it
    done = subprocess.run(shmq.command("tasks"), env=env, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (exits.CLOSED_PIPE, b"")


# -- steering ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["pause"], ["resume"], ["scale"]], ids=str)
def test_a_misspelt_group_gets_the_nearest_name(shmq, command):
    done = shmq(*command, "netwrok", *(["1"] if command == ["scale"] else []))
    assert done.exit_code == exits.REFUSED
    assert "did you mean network?" in done.output


def test_a_paused_group_starts_nothing_until_resumed(shmq, tmp_path):
    assert shmq("pause", "computation").output == "computation: paused\n"
    shmq("submit", "--no-wait", "jobs.note", str(tmp_path / "ran"))
    assert shmq("submit", "jobs.afar", "x").output == '"x"\n'  # another group goes on meanwhile
    assert not (tmp_path / "ran").exists()
    assert shmq("resume", "computation").output == "computation: resumed\n"
    until((tmp_path / "ran").exists, "the job runs")


def test_a_group_is_scaled_and_given_back_to_the_planner(shmq):
    assert shmq("scale", "network", "3").output == "network: 3 workers, fixed\n"
    until(lambda: len(shmq.live.live_workers("network")) == 3, "three workers")
    assert "chosen by the planner" in shmq("scale", "network", "auto").output
    for wrong in ("some", "-1", "1001"):
        done = shmq("scale", "network", wrong)
        assert done.exit_code == exits.USAGE
        assert f"'{wrong}': a number from 0 to 1000, or auto." in done.output


def test_limits_are_shown_changed_and_removed(shmq):
    assert shmq("limit", "network", "--rate", "250", "--burst", "5").exit_code == exits.OK
    assert shmq("limit", "network", "--burst", "7").exit_code == exits.OK
    shown = shmq("limit", "network").output.splitlines()[1].split()
    assert shown[:3] == ["network", "250/s", "7"]
    assert shmq("limit", "network", "--off").output == "network: no limits\n"
    assert shmq("limit", "network").output.splitlines()[1].split()[:3] == ["network", "·", "·"]
    assert len(shmq("limit").output.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--rate", "1"], exits.USAGE), (["network", "--rate", "0"], exits.USAGE), (["nowhere"], exits.REFUSED),
        (["network", "--off", "--rate", "1"], exits.USAGE),
    ],
    ids=str,
)  # fmt: skip
def test_limits_that_mean_nothing_are_refused(shmq, arguments, code):
    assert shmq("limit", *arguments).exit_code == code


# -- dead letters ------------------------------------------------------------------------


def letter(job: str, task: str = "jobs.echo", args=("x",), **facts) -> DeadLetter:
    facts = {"nargs": len(args), "group": "computation", "kind": CALL, "message": "it \x1b[31mbroke"} | facts
    return DeadLetter(
        job=job, epoch=1, task=task, args=msgspec.msgpack.encode(args), error="ValueError", traceback="Traceback ...",
        **facts,
    )  # fmt: skip


@pytest.fixture
def letters(shmq):
    found = DeadLetters(shmq.live.state_dir)
    yield found
    found.drop()


def test_dead_letters_are_listed_filtered_and_shown(shmq, letters):
    letters.add(letter("1-1"))
    letters.add(letter("1-2", task="jobs.other", group="network", died_at=1000.0, crashes=3, how="SIGKILL"))

    assert [line.split()[0] for line in shmq("dead", "list").output.splitlines()] == ["job", "1-1", "1-2"]
    assert "\x1b" not in shmq("dead", "list").output
    done = shmq("dead", "list", "--limit", "1")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["job", "1-1"]
    assert done.stderr == "the newest 1; there are more: --limit\n"
    assert "1-1" not in shmq("dead", "list", "--task", "*.other").output
    assert "1-2" not in shmq("dead", "list", "--since", "2h").output
    assert shmq("dead", "list", "--since", "yesterday").exit_code == exits.USAGE
    (line,) = shmq("dead", "list", "--json", "--group", "network").output.splitlines()
    assert msgspec.json.decode(line)["args"] == ["x"]
    shown = shmq("dead", "show", "1-2").output
    assert all(fact in shown for fact in ("jobs.other", "0 failed, 3 crashed", "SIGKILL", '["x"]', "Traceback ..."))
    assert shmq("dead", "show", "9-9").exit_code == exits.USAGE


def test_dead_jobs_run_again(shmq, letters, tmp_path):
    paths = [str(tmp_path / name) for name in "abc"]
    letters.add(letter("1-1", "jobs.note", (paths[0],)))
    letters.add(letter("1-2", "jobs.note", ((), {"path": paths[1]}), nargs=VARIADIC))
    letters.add(letter("1-3", "jobs.note", (paths[2],)))

    assert shmq("dead", "retry", "1-1", "1-2").output == "2 submitted again\n"
    until(lambda: len(list(tmp_path.iterdir())) == 2, "both run")
    assert [found.job for found in letters.list()] == ["1-3"]
    assert shmq("dead", "retry", "--all").output == "1 submitted again\n"
    until(lambda: len(list(tmp_path.iterdir())) == 3, "it runs")
    assert letters.list() == []


def test_what_cannot_run_again_stays_and_is_told(shmq, letters):
    letters.add(letter("1-1", "jobs.gone"))
    letters.add(letter("1-2", args=[msgspec.msgpack.Ext(1, b"\0" * 16)]))

    done = shmq("dead", "retry", "--all")

    assert done.exit_code == exits.FAILED
    assert "no worker has registered a task 'jobs.gone'" in done.output
    assert "its arguments were not kept" in done.output
    assert len(letters.list()) == 2


def test_dead_jobs_are_dropped_by_choice_only(shmq, letters):
    for job, task in (("1-1", "jobs.echo"), ("1-2", "jobs.pair"), ("1-3", "jobs.pair")):
        letters.add(letter(job, task))
    assert shmq("dead", "drop").exit_code == exits.USAGE
    assert shmq("dead", "drop", "1-1", "--all").exit_code == exits.USAGE
    assert shmq("dead", "drop", "--task", "*.pair").output == "2 dropped\n"
    assert shmq("dead", "drop", "1-1").output == "1 dropped\n"
    assert "no dead letters" in shmq("dead", "list").output
