from __future__ import annotations

from functools import partial

import pytest

from perf import functions, harness, peers
from perf.harness import Scenario, Setting
from perf.peers import Peer, driver
from perf.peers.pools import process_pool_executor


def test_adapters_are_found_without_any_of_their_packages() -> None:
    names = [peer.name for peer in peers.load()]
    assert len(names) == len(set(names)) == len(peers.MODULES) == 13


def test_a_peer_that_nobody_has_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown peer huey; known: ProcessPoolExecutor, Pool"):
        peers.load(["huey"])


def test_names_are_matched_whatever_their_case() -> None:
    assert [peer.name for peer in peers.load(["processpoolexecutor", "RQ"])] == ["ProcessPoolExecutor", "rq"]


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (
            Peer(
                "gone",
                "submit",
                process_pool_executor.open_,
                module="no_such_module_here",
                distribution="gone-dist",
            ),
            "not installed (pip install gone-dist)",
        ),
        (
            Peer("gone", "submit", process_pool_executor.open_, command="no-such-command-here"),
            "no-such-command-here is not on PATH",
        ),
    ],
)
def test_an_absent_peer_is_skipped_by_name_with_what_to_install(peer: Peer, reason: str) -> None:
    setting = Setting(short=True, rounds=2, seconds=0.001, peers=(peer,))
    drive = driver.each(functions.echo, range)
    outcome = harness.run(Scenario("s", "S", lambda given: driver.peers(given, drive), ()), setting)
    assert outcome.skipped == {"gone.submit": reason}


@pytest.mark.parametrize("name", ["ProcessPoolExecutor", "Pool"])
def test_a_peer_of_the_standard_library_is_measured_and_verified(name: str) -> None:
    (peer,) = peers.load([name])
    setting = Setting(short=True, rounds=1, seconds=0.002, peers=(peer,))
    drives = [driver.each(functions.echo, range), driver.round_trip(functions.echo)]
    for drive in drives:
        scenario = Scenario("s", "S", partial(driver.peers, drive=drive, jobs=20), ())
        outcome = harness.run(scenario, setting)
        assert outcome.skipped == {}
        assert [entry.name for entry in outcome.entries] == [peer.label]
    bulk = driver.bulk(functions.echo)
    outcome = harness.run(Scenario("s", "S", lambda given: driver.peers(given, bulk, jobs=200, bulk=True), ()), setting)
    assert [entry.name for entry in outcome.entries] == [f"{name}.map(chunksize=50)"]


def test_a_peer_that_returns_something_else_is_found_out() -> None:
    session = peers.Session(bind=lambda _: lambda item: item, read=lambda item: item + (item == 13))
    with pytest.raises(harness.WrongResult, match="job 13: got 14, expected 13"):
        driver.each(functions.echo, range)(session, 20)
