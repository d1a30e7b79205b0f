"""One stage for a test: a real segment whose actors are called in this process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.crash.stage.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(f"stage{os.environ.get('SHMQ_TEST_RUN', '')}-{secrets.token_hex(4)}")
    stage.reset()
    try:
        yield stage
    finally:
        stage.drop()
        stage.close()
