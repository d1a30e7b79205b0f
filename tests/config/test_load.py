"""Which files are read at all: a configuration names code, so nobody else may have written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.config import load as module
from shmq.config.load import load
from shmq.config.model import Config
from shmq.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('namespace = "mine"\n')
    path.chmod(0o600)
    return path


def problem_of(path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    return problem


def test_a_file_of_ones_own_is_read(file):
    assert load(file) == load(str(file)) == Config(namespace="mine")


def test_the_supplied_configuration_loads_the_ready_made_tasks():
    path = ROOT / "config.toml"
    path.chmod(path.stat().st_mode & ~0o022)  # as scripts/setup does
    config = load(path)
    assert config.tasks == ("workers.filesystem", "workers.network", "workers.computation", "workers.memory")
    assert list(config.groups) == ["filesystem", "network", "computation", "memory"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(file, mode):
    file.chmod(mode)
    assert f"mode {mode:04o}" in problem_of(file)
    assert f"chmod go-w {file}" in problem_of(file)


def test_a_symbolic_link_is_refused(file, tmp_path):
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    assert f"is a symbolic link to {file}" in problem_of(link)


def test_a_dangling_link_is_refused_as_a_link(tmp_path):
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "nothing")
    assert "is a symbolic link" in problem_of(link)


def test_a_missing_file_is_named(tmp_path):
    assert "does not exist" in problem_of(tmp_path / "none.toml")


def test_a_folder_and_a_pipe_are_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is not a regular file" in problem_of(tmp_path / "pipe")
    assert "is not a regular file" in problem_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(file):
    file.chmod(0)
    assert "cannot be opened" in problem_of(file)


def test_a_file_of_another_user_is_refused(file, monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: file.stat().st_uid + 1)
    assert f"belongs to uid {file.stat().st_uid}" in problem_of(file)


def test_text_that_is_not_utf_8_is_refused(file):
    file.write_bytes(b'namespace = "\xff"')
    assert "is not UTF-8 at byte 13" in problem_of(file)


def test_a_huge_file_is_refused(file):
    file.write_text("#" * (module.MAX_FILE_BYTES + 1))
    assert "that is no configuration" in problem_of(file)


def test_every_problem_carries_the_path(file):
    file.write_text("a = 1\nb = 2\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [problem.startswith(f"{file}: unknown key") for problem in caught.value.problems] == [True, True]
