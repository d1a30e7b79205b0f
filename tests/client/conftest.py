"""One supervisor for all tests of this folder; each test has the default client to itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmq
from shmq.client import default
from tests.live import LiveSupervisor

SLOTS = 64
CONFIG = f"""
[groups.computation]
min_workers = 2
max_workers = 2
[groups.single]
min_workers = 1
max_workers = 1
[groups.parked]
min_workers = 1
max_workers = 1
[groups.many]
min_workers = 1
max_workers = 1
concurrency = 8
[memory]
max_producers = 12
slots_per_producer = {SLOTS}
block_budget_bytes = 16777216
max_workers = 16
"""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSupervisor]:
    folder = tmp_path_factory.mktemp("service")
    with LiveSupervisor(folder, "from tests.client.declared import *", CONFIG) as live:
        yield live


@pytest.fixture
def client(service: LiveSupervisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[shmq.Client]:
    """The default client, connected to the service."""
    monkeypatch.setenv("SHMQ_NAMESPACE", service.namespace)
    yield default.client()
    shmq.close()
