from __future__ import annotations

import numpy as np
import pytest

from shmq.planner.forecast import Forecaster
from shmq.planner.forecast import state as state_file
from tests.planner.loads import daily

STEP_S = 1800.0


@pytest.fixture
def saved(tmp_path):
    forecaster = Forecaster(STEP_S)
    for count in daily(10):
        forecaster.update(count)
    path = tmp_path / "network.npz"
    forecaster.save(path)
    return forecaster, path


def test_what_was_saved_goes_on_as_if_nothing_had_happened(saved):
    forecaster, path = saved
    loaded = Forecaster.load(path, STEP_S)
    for count in daily(3, seed=5):
        for a, b in zip(forecaster.forecast(40), loaded.forecast(40), strict=True):
            assert np.array_equal(a, b)
        forecaster.update(count)
        loaded.update(count)


def test_a_second_save_replaces_the_first_and_leaves_nothing_beside(saved):
    forecaster, path = saved
    forecaster.update(7.0)
    forecaster.save(path)
    assert Forecaster.load(path, STEP_S).t == forecaster.t
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_without_a_file_it_starts_afresh_and_says_nothing(tmp_path, caplog):
    assert Forecaster.load(tmp_path / "none.npz", STEP_S).t == 0
    assert not caplog.records


def torn(data):
    return data[: len(data) // 2]


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [torn, flipped, lambda data: b"", lambda data: b"no archive", lambda data: bytes(99)]
)
def test_a_damaged_file_is_set_aside_with_a_warning(saved, caplog, damage):
    _, path = saved
    data = damage(path.read_bytes())
    path.write_bytes(data)
    assert Forecaster.load(path, STEP_S).t == 0
    assert not path.exists()
    assert path.with_name("network.npz.damaged").read_bytes() == data
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be used" in caplog.text


def test_any_flipped_byte_is_found_or_harmless(saved):
    _, path = saved
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(data), 40).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        loaded = Forecaster.load(path, STEP_S)
        loaded.update(3.0)
        assert np.isfinite(loaded.forecast(15)[0]).all()


def test_another_step_is_set_aside(saved, caplog):
    _, path = saved
    assert Forecaster.load(path, 60.0).t == 0
    assert "its steps are of 1800 s, not 60 s" in caplog.text


def test_another_version_is_set_aside(saved, caplog, monkeypatch):
    _, path = saved
    monkeypatch.setattr(state_file, "VERSION", 2)
    assert Forecaster.load(path, STEP_S).t == 0
    assert "version 1" in caplog.text


def test_numbers_that_are_none_are_set_aside(saved, caplog):
    forecaster, path = saved
    forecaster.regression.coefficients[3, 4] = np.nan
    forecaster.save(path)
    assert Forecaster.load(path, STEP_S).t == 0
    assert "regression.coefficients" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("regression.coefficients", 1e308), ("bands.sizes", 1e9), ("pulse.seen", 0.5), ("history.end", 0.0),
        ("history.in_bin", 1e11), ("history.bins", -1.0), ("forecaster.since", 1e11), ("features.common", -1e10),
    ],
)  # fmt: skip
def test_finite_numbers_that_mean_nothing_are_set_aside(saved, caplog, name, value):
    _, path = saved
    arrays = dict(np.load(path))
    arrays[name] = np.full_like(arrays[name], value)
    np.savez(path, **arrays)
    loaded = Forecaster.load(path, STEP_S)
    assert loaded.t == 0
    assert "cannot be used" in caplog.text
    loaded.skip(3)
    loaded.update(5.0)
    assert np.isfinite(loaded.forecast(40)).all()


def test_a_folder_in_its_place_does_not_stop_the_planner(tmp_path, caplog):
    path = tmp_path / "network.npz"
    path.mkdir()
    assert Forecaster.load(path, STEP_S).t == 0
    assert "cannot be used" in caplog.text


def test_a_large_file_is_not_read(saved, caplog):
    _, path = saved
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    assert Forecaster.load(path, STEP_S).t == 0
    assert "bytes, more than" in caplog.text
