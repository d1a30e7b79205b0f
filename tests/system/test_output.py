"""What tasks print and log: whole lines in the supervisor's log with worker, task and job."""

from __future__ import annotations

import json
import re

import pytest

from tests.client import declared
from tests.live import LiveSupervisor, until

NOISY = """
import logging, shmq

logging.basicConfig()

@shmq.task
def noisy():
    print("printed of mine")
    logging.warning("logged of mine")
"""

RUDE = """
import os, shmq, sys

@shmq.task
def rude(closes_descriptors):
    sys.stdout.close()
    sys.stderr.close()
    if closes_descriptors:
        os.close(1)
        os.close(2)

@shmq.task
def loud():
    with open("/dev/null", "w"):
        print("heard of me", flush=True)
"""


def line_of(service: LiveSupervisor, text: str) -> str:
    return until(lambda: next((line for line in service.log().splitlines() if text in line), None), text)


def test_a_printed_line_names_worker_task_and_job(client, service):
    job = declared.speak.submit("one line of mine")
    job.result(30)
    assert re.match(
        rf"computation/\d+ tests\.client\.declared\.speak {job.id} \| one line of mine$",
        line_of(service, "one line of mine"),
    )


def test_each_line_of_many_has_the_prefix(client, service):
    job = declared.speak.submit("first of two\nsecond of two")
    job.result(30)
    for text in ("first of two", "second of two"):
        assert f"speak {job.id} | {text}" in line_of(service, text)


def test_a_logged_line_names_its_job(client, service):
    job = declared.log.submit("a warning of mine")
    job.result(30)
    assert f"log {job.id} | " in line_of(service, "a warning of mine")


def test_a_line_that_a_job_leaves_unfinished_is_its_own(client, service):
    first, second = (declared.mutter.submit(word) for word in ("begun", "other"))
    first.result(30), second.result(30)
    line = line_of(service, "begun")
    assert line.endswith(f"declared.mutter {first.id} | begun")


def test_lines_follow_the_format_of_the_log_also_those_of_handlers_made_at_import(tmp_path):
    with LiveSupervisor(tmp_path, NOISY, "[groups.computation]\nmax_workers = 1\n", log_format="json") as live:
        job = live.submit("noisy")
        job.result(30)
        lines = until(lambda: [line for line in live.log().splitlines() if "of mine" in line][1:] and live.log())
        told = [entry for entry in map(json.loads, lines.splitlines()) if entry["logger"] == "task"]
        assert [entry["message"] for entry in told] == ["printed of mine", "WARNING:root:logged of mine"]
        assert {(entry["task"], entry["job"], entry["group"]) for entry in told} == {
            ("jobs.noisy", job.id, "computation")
        }


@pytest.mark.parametrize("output", ["log", "inherit"])
def test_a_task_that_closes_stdout_takes_it_from_no_other_job(tmp_path, output):
    with LiveSupervisor(tmp_path, RUDE, "[groups.computation]\nmax_workers = 1\n", task_output=output) as live:
        live.submit("rude", output == "log").result(30)
        live.submit("loud").result(30)
        until(lambda: "heard of me" in live.log(), "the line is in the log")


def test_control_characters_never_reach_the_log(client, service):
    declared.speak.submit("esc \x1b[31m and bell \x07 and nul \0 are gone").result(30)
    assert line_of(service, "are gone").endswith("esc [31m and bell  and nul  are gone")


def test_a_very_long_line_is_cut_or_split_but_not_torn(client, service):
    declared.speak.submit("y" * 20_000 + "end").result(30)
    declared.speak.submit("after the long line").result(30)
    assert "speak" in line_of(service, "after the long line")
    assert "yyy" in service.log()


@pytest.mark.parametrize("target", ["inherit", "file"])
def test_output_goes_where_the_configuration_says(tmp_path, target):
    file = tmp_path / "output"
    where = "inherit" if target == "inherit" else str(file)
    with LiveSupervisor(
        tmp_path,
        "from tests.client.declared import *",
        "[groups.computation]\nmax_workers = 1\n[groups.single]\n[groups.parked]\n[groups.many]\n",
        task_output=where,
    ) as live:
        job = live.client().submit(declared.speak, "plain words")
        job.result(30)
        live.stop()
        written = live.log() if target == "inherit" else file.read_text()
        assert "plain words" in written
        assert (job.id in written) == (target == "file")
