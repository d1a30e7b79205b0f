"""What every test may use: a namespace of its own, a state directory apart from the user's; a check ends all.

Under xdist this file is read by the controller and by each worker; the controller ends last and tidies.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine makes any example slow: speed is measured in perf/, not asserted here
settings.register_profile("shmq", deadline=None, derandomize=True)  # every run the same examples
settings.register_profile("explore", deadline=None)  # `pytest --hypothesis-profile explore`: new ones
settings.load_profile("shmq")

SHM = Path("/dev/shm")
IS_CONTROLLER = "PYTEST_XDIST_WORKER" not in os.environ
# In every namespace of this run, so that runs beside each other do not find each other's remains.
RUN = os.environ.setdefault("SHMQ_TEST_RUN", secrets.token_hex(4))
_numbers = itertools.count(1)

os.environ.pop("SHMQ_NAMESPACE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with `&` by a script: tests send it to their children
    signal.signal(signal.SIGINT, signal.default_int_handler)
if IS_CONTROLLER:
    # Short, because the path of a socket has at most 107 bytes. Workers and children inherit it.
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="shmq-")


def left_in_shared_memory(mark: str) -> list[str]:
    """Names that carry the mark: segments, and semaphores, which begin with their segment's name."""
    return sorted(name for name in os.listdir(SHM) if mark in name)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace that no other test and no other run uses; a segment left in it fails the test."""
    name = f"t{RUN}-{os.environ.get('PYTEST_XDIST_WORKER', 'm')}-{next(_numbers)}"
    yield name
    left = left_in_shared_memory(name)
    assert not left, f"the test left {left} in {SHM}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not IS_CONTROLLER:
        return
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)
    if left := left_in_shared_memory(f"t{RUN}"):
        print(f"\nthe tests left {left} in {SHM}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests (minutes, or a browser) run when asked for: `-m slow`, or SHMQ_SLOW=1."""
    if config.getoption("-m") or os.environ.get("SHMQ_SLOW"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
