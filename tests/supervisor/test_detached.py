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
        assert "was removed while in use" in live.log()
        assert client.submit("jobs.echo", 2).result(GUARD_S) == 2
