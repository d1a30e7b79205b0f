"""One supervisor for the tests of this folder that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import shmq
from shmq.client import default
from tests.live import LiveSupervisor

SLOTS = 256
CONFIG = f"""
[groups.computation]
min_workers = 2
max_workers = 2
[groups.single]
min_workers = 1
max_workers = 1
[groups.wheel]
min_workers = 1
max_workers = 1
max_batch = 1
[groups.parked]
[groups.many]
concurrency = 8
[memory]
max_producers = 6
slots_per_producer = {SLOTS}
block_budget_bytes = 4194304
max_workers = 8
"""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSupervisor]:
    folder = tmp_path_factory.mktemp("system")
    with LiveSupervisor(folder, "from tests.client.declared import *", CONFIG) as live:
        yield live


@pytest.fixture
def client(service: LiveSupervisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[shmq.Client]:
    """The default client, connected to the service."""
    monkeypatch.setenv("SHMQ_NAMESPACE", service.namespace)
    yield default.client()
    shmq.close()
