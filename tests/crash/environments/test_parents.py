"""What a parent left behind: ignored and blocked signals."""

from __future__ import annotations

import signal

from shmq.observe import litmus
from tests.crash.environments.namespaces import inside
from tests.crash.environments.starts import ONE_WORKER, TASKS, works
from tests.live import LiveSupervisor


def test_a_parent_that_ignores_sigchld_and_blocks_signals_changes_nothing(tmp_path):
    inherited = """
import signal
for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
"""
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=inherited) as live:
        assert works(live, tmp_path / "mark")
        assert live.stop() == 0


def test_the_litmus_runs_where_sigchld_is_ignored():
    def body() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        assert litmus.run(litmus.MESSAGE, seconds=0.0).rounds > 0

    inside(body)
