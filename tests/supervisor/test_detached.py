from __future__ import annotations

from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import shmq

@shmq.task
def echo(x):
    return x
"""


def test_a_removed_segment_is_noticed_and_who_is_attached_goes_on(tmp_path):
    with LiveSupervisor(tmp_path, TASKS) as live:
        client, segment = live.client(), live.segment
        assert client.submit("jobs.echo", 1).result(GUARD_S) == 1
        until((live.state_dir / "recovery.bell").exists, "recovery is attached: nobody else can be from now on")
        segment.path.unlink()
        until(lambda: segment.header("detached"), "detached")
        until(lambda: "was removed while in use" in live.log(), "the log tells it")
        assert client.submit("jobs.echo", 2).result(GUARD_S) == 2


def bells(live):
    return [path.name for path in live.names_left() if path.name.startswith("sem.")]


def test_doorbells_go_although_their_names_in_the_rows_were_overwritten(tmp_path):
    with LiveSupervisor(tmp_path, TASKS) as live:
        live.submit("echo", 1).result(GUARD_S)
        until(lambda: len(bells(live)) == 1 + len(live.live_workers()), "nobody is about to join any more")
        for field in ("worker_bells", "producer_bells"):
            view = live.segment.view(field)
            view[:] = b"\xff" * len(view)
        live.close_clients()
        assert live.stop() == 0  # leaving the block looks for what is left


def test_the_next_supervisor_removes_doorbells_of_a_segment_that_was_removed(tmp_path):
    with LiveSupervisor(tmp_path, TASKS) as live:
        live.segment.path.unlink()
        live.kill()
        until(lambda: not live.processes(), "the workers end with their supervisor")
        old = set(bells(live))
        assert old
        live.start()
        assert not old & set(bells(live))
        assert live.submit("echo", 1).result(GUARD_S) == 1
