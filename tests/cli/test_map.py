from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from shmq.cli import exits
from shmq.cli.main import cli
from shmq.observe.snapshot import take
from tests.live import until


def results(done: subprocess.CompletedProcess[bytes]) -> list:
    return [json.loads(line) for line in done.stdout.splitlines()]


def failures(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return [line for line in done.stderr.decode().splitlines() if line.startswith("line ")]


def unfinished(shmq) -> int:
    group = take(shmq.live.segment).group("computation")
    return group.queued + group.leased + group.running + group.scheduled


@pytest.mark.parametrize("options", [[], ["--chunk-size", "7"], ["--priority", "1", "--timeout", "20"]], ids=str)
def test_each_line_is_one_job_and_results_come_in_its_order(shmq, options):
    lines = [f"line {i}" for i in range(3000)]
    done = shmq.run("map", "jobs.echo", *options, given="\n".join(lines))
    assert (done.returncode, done.stderr) == (exits.OK, b"")
    assert results(done) == lines


def test_unordered_results_are_the_same_ones(shmq):
    done = shmq.run("map", "jobs.echo", "--unordered", given="".join(f"{i}\n" for i in range(3000)))
    assert done.returncode == exits.OK
    assert sorted(map(int, results(done))) == list(range(3000))


def test_json_lines_hold_positional_named_or_single_arguments(shmq):
    given = '[1]\n[3, 4]\n\n{"b": 6, "a": 5}\n7\n  \n[8]\n'
    done = shmq.run("map", "--json", "jobs.pair", given=given)
    assert (done.returncode, done.stderr) == (exits.OK, b"")
    assert results(done) == [[1, 2], [3, 4], [5, 6], [7, 2], [8, 2]]


@pytest.mark.parametrize("chunk_size", ["auto", "9"])
def test_lines_that_fail_are_told_by_number_and_hold_up_no_others(shmq, chunk_size):
    lines = [
        "1", "oops", "[1, 2, 3]", '["x"]', "18446744073709551616", '{"c": 1}', "4", "[]", '{"a": 9}'
    ]  # fmt: skip
    done = shmq.run("map", "--json", "--chunk-size", chunk_size, "jobs.pair", given="\n".join(lines))
    assert done.returncode == exits.FAILED
    assert results(done) == [[1, 2], [4, 2], [9, 2]]
    told = failures(done)
    wanted = [f"line {i} ({lines[i - 1]}): " for i in (2, 3, 4, 5, 6, 8)]
    assert all(line.startswith(start) for line, start in zip(told, wanted, strict=True))
    assert "not JSON" in told[0]
    assert "BadArguments" in told[1]
    assert "Unencodable" in told[3]
    assert b"shmq map: 6 of 9 lines failed" in done.stderr


def test_what_a_task_raises_is_told_with_its_line(shmq):
    done = shmq.run("map", "jobs.boom", given="a\nb\x1b[31m\n")
    assert done.returncode == exits.FAILED
    assert failures(done) == ["line 1 (a): ValueError: no a", "line 2 (b\\x1b[31m): ValueError: no b\\x1b[31m"]


def test_verbose_adds_the_traceback_of_the_worker(shmq):
    done = shmq.run("map", "-v", "jobs.boom", given="a\n")
    assert b'raise ValueError(f"no {x}")' in done.stderr


def test_names_of_files_that_are_not_utf8_travel_as_they_are(shmq, tmp_path):
    paths = [os.fsencode(tmp_path) + name for name in (b"/plain", b"/\xff\xe9", "/é".encode(), b"/\xff new\nline")]
    done = shmq.run("map", "--null", "jobs.note", given=b"\0".join(paths))
    assert (done.returncode, done.stderr) == (exits.OK, b"")
    assert sorted(os.listdir(os.fsencode(tmp_path))) == sorted(path.rpartition(b"/")[2] for path in paths)
    assert results(done) == [os.fsdecode(path.rpartition(b"/")[2]) for path in paths]


def test_the_name_of_a_file_that_is_not_utf8_and_cannot_be_used_fails_alone(shmq):
    done = shmq.run("map", "--null", "jobs.note", given=b"/no/\xff\0/no/b")
    assert failures(done) == [
        "line 1 (/no/\\xff): FileNotFoundError: [Errno 2] No such file or directory: '/no/\\udcff'",
        "line 2 (/no/b): FileNotFoundError: [Errno 2] No such file or directory: '/no/b'",
    ]


def test_a_line_is_a_number_where_the_task_wants_one(shmq):
    done = shmq.run("map", "jobs.typed", given="1\nx\n-3\n")
    assert results(done) == [[1, None, True], [-3, None, True]]
    assert failures(done) == ["line 2 (x): Malformed: argument 'count' must be a whole number, got 'x'"]


def test_names_with_newlines_come_with_nul(shmq):
    assert results(shmq.run("map", "-0", "jobs.echo", given=b"a\nb\0c\0")) == ["a\nb", "c"]


def test_no_input_is_no_work(shmq):
    done = shmq.run("map", "jobs.echo")
    assert (done.returncode, done.stdout, done.stderr) == (exits.OK, b"", b"")


def test_an_unknown_task_gets_the_nearest_names(shmq):
    done = shmq.run("map", "jobs.ecco", given="a\n")
    assert done.returncode == exits.REFUSED
    assert b"Did you mean jobs.echo?" in done.stderr


def test_a_result_comes_although_the_input_pauses(shmq):
    process = shmq.start("map", "jobs.echo")
    for word in (b"one", b"two", b"three"):
        process.stdin.write(word + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == word.decode()
    assert process.communicate() == (b"", b"")
    assert process.returncode == exits.OK


def test_new_lines_are_taken_while_an_earlier_one_runs(shmq, tmp_path):
    process = shmq.start("map", "--json", "--unordered", "jobs.note_after")
    process.stdin.write(b'["%s", "%s"]\n' % (bytes(tmp_path / "slow"), bytes(tmp_path / "go")))
    process.stdin.flush()
    until(lambda: take(shmq.live.segment).group("computation").running, "the slow one runs")
    process.stdin.write(b'["%s", "/"]\n' % bytes(tmp_path / "quick"))
    process.stdin.flush()
    assert process.stdout.readline() == b'"quick"\n'
    (tmp_path / "go").touch()
    assert process.communicate(timeout=60) == (b'"slow"\n', b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, exits.INTERRUPTED), (signal.SIGTERM, exits.TERMINATED)])
def test_an_interrupt_cancels_what_has_not_started(shmq, tmp_path, number, code):
    process = shmq.start("map", "--json", "--chunk-size", "5", "jobs.note")
    process.stdin.write(b"".join(b'["%s", 0.05]\n' % bytes(tmp_path / str(i)) for i in range(40)))
    process.stdin.flush()
    until(lambda: list(tmp_path.iterdir()), "the first line has run")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, b"")
    until(lambda: not unfinished(shmq), "nothing is under way")
    assert len(list(tmp_path.iterdir())) <= 10  # two workers had begun a chunk each


def test_a_second_sigterm_does_not_keep_it_from_cancelling(shmq, tmp_path):
    process = shmq.start("map", "--json", "--chunk-size", "5", "jobs.note")
    process.stdin.write(b"".join(b'["%s", 0.05]\n' % bytes(tmp_path / str(i)) for i in range(40)))
    process.stdin.flush()
    until(lambda: list(tmp_path.iterdir()), "the first line has run")
    while process.poll() is None:  # `timeout` sends it to the command, and then to its group
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert process.returncode == exits.TERMINATED
    process.communicate()
    until(lambda: not unfinished(shmq), "nothing is under way")
    assert len(list(tmp_path.iterdir())) <= 10


def test_a_closed_pipe_ends_it_quietly(shmq):
    pipeline = f"yes | {sys.executable} -m shmq map jobs.echo | head -2; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", pipeline], env=shmq.env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ['"y"', '"y"', str(exits.CLOSED_PIPE)]
    assert done.stderr == ""
    until(lambda: not unfinished(shmq), "nothing is under way")


def test_a_paused_group_is_told_and_waited_for(shmq):
    assert shmq("pause", "computation").exit_code == exits.OK
    process = shmq.start("map", "jobs.echo")
    process.stdin.write(b"a\n")
    process.stdin.close()
    try:
        assert process.stderr.readline() == (
            b"shmq map waits: group computation: paused, 1 job waiting (shmq resume computation)\n"
        )
    finally:
        assert shmq("resume", "computation").exit_code == exits.OK
    assert process.stdout.read() == b'"a"\n'
    assert process.wait() == exits.OK
    process.stderr.close()
    process.stdout.close()


def test_more_than_all_blocks_hold_goes_through_piece_by_piece(shmq):
    lines = [chr(ord("a") + i % 26) * 300_000 for i in range(40)]  # 12 MB through 4 MiB of blocks
    done = shmq.run("map", "jobs.length", given="\n".join(lines))
    assert (done.returncode, done.stderr) == (exits.OK, b"")
    assert results(done) == [300_000] * 40


def test_large_results_go_through_piece_by_piece(shmq):
    done = shmq.run("map", "--json", "jobs.repeat", given="".join(f'["{i % 10}", 200000]\n' for i in range(60)))
    assert (done.returncode, done.stderr) == (exits.OK, b"")
    assert results(done) == [str(i % 10) * 200_000 for i in range(60)]


def test_a_line_that_no_block_holds_fails_alone(shmq):
    done = shmq.run("map", "jobs.length", given="\n".join(["a", "b" * 6_000_000, "cc"]))
    assert results(done) == [1, 2]
    (told,) = failures(done)
    assert told.startswith("line 2 (bbbb")
    assert "TooLarge" in told
    assert len(told) < 400


def test_memory_stays_flat_however_many_lines_there_are(shmq, tmp_path):
    def peak_kib(lines: int) -> int:
        path = tmp_path / "lines"
        path.write_text("".join(f"{i}\n" for i in range(lines)))
        with path.open("rb") as given:
            process = subprocess.Popen(
                shmq.command("map", "jobs.echo"), stdin=given, stdout=subprocess.DEVNULL, env=shmq.env
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == exits.OK
        return usage.ru_maxrss

    assert peak_kib(150_000) - peak_kib(15_000) < 8 * 1024


@pytest.mark.parametrize("size", ["0", "-1", "many", "1e3"])
def test_a_chunk_size_that_is_none_is_refused(size):
    assert CliRunner().invoke(cli, ["map", "a.b", "--chunk-size", size]).exit_code == exits.USAGE
