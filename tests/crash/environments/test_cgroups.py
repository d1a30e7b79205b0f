"""Memory cgroups: too small, full of cached files, a worker killed by the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmq import probes
from shmq.errors import WorkerLost
from tests.crash.environments.namespaces import inside
from tests.crash.environments.starts import ONE_WORKER, TASKS, refusal, works
from tests.live import GUARD_S, LiveSupervisor, until


@pytest.fixture
def cgroup() -> Iterator[Callable[[int], Path]]:
    """Make a memory cgroup of so many bytes below this process's own."""
    own = next(iter(probes._memory_cgroups()), None)
    made = own / f"shmq-test-{os.getpid()}" if own else Path()

    def make(limit: int) -> Path:
        try:
            made.mkdir()
            name = "memory.max" if (made / "memory.max").exists() else "memory.limit_in_bytes"
            (made / name).write_text(str(limit))
        except OSError as error:
            pytest.skip(
                f"no memory cgroup can be made here ({error.strerror}); run as root with a writable /sys/fs/cgroup"
            )
        return made

    yield make
    if made.is_dir():
        until(lambda: not (made / "cgroup.procs").read_text(), "the cgroup is empty")
        made.rmdir()


def within(cgroup: Path) -> str:
    """A prelude: be in that cgroup."""
    return f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0')"


def test_in_too_small_a_memory_cgroup_the_start_is_refused_with_the_missing_bytes(tmp_path, cgroup):
    said = refusal(LiveSupervisor(tmp_path, TASKS, ONE_WORKER + "[memory]\n", prelude=within(cgroup(48 << 20))))
    assert "the memory cgroup has" in said
    assert "bytes missing" in said


def test_files_that_the_kernel_has_cached_do_not_fill_a_memory_cgroup(tmp_path, cgroup):
    folder = cgroup(64 << 20)

    def body() -> None:
        (folder / "cgroup.procs").write_text("0")
        probes._memory_cgroups.cache_clear()
        before = probes.cgroup_free_bytes()
        with (tmp_path / "file").open("wb") as file:
            for _ in range(60):
                file.write(bytes(1 << 20))
        now = probes.cgroup_free_bytes()
        usage = folder / ("memory.current" if (folder / "memory.current").exists() else "memory.usage_in_bytes")
        assert int(usage.read_text()) > 50 << 20
        assert before is not None
        assert now is not None
        assert now > before - (8 << 20)

    inside(body)


def test_after_workers_the_kernel_prefers_the_planner_without_which_all_goes_on(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        kinds = ("worker computation", "planner", "fork server", "recovery")
        pids = [*(live.named(f"shmq: {kind}")[0] for kind in kinds), live.pid]

        def scores() -> list[int]:
            return [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids]

        until(lambda: scores()[1], "the planner, which has its name already, has told the kernel")
        worker, planner, *others = scores()
        assert worker > planner > max(others)


def test_a_worker_that_the_kernel_kills_for_memory_takes_nobody_along(tmp_path, cgroup):
    prelude = within(cgroup(192 << 20))
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=prelude) as live:
        pid, recovery, server = live.pid, live.named("shmq: recovery"), live.named("shmq: fork server")
        with pytest.raises(WorkerLost, match="out of memory"):
            live.submit("fill_memory").result(GUARD_S)
        assert works(live, tmp_path / "mark")
        assert (pid, recovery, server) == (live.pid, live.named("shmq: recovery"), live.named("shmq: fork server"))
