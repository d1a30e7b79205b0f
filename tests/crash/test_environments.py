"""Where users run it: containers with a small, read-only or full /dev/shm, few descriptors, odd parents, namespaces.

Refused at the start means: a message with figures and what to do, no traceback, nothing left behind. Refused later
means: what runs goes on, nothing that was accepted is lost.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmq import probes
from shmq.errors import IncompatibleSegment, SystemRefused, TooManyProducers, WorkerLost
from shmq.memory import locks
from shmq.memory.layout import PRODUCER, Shape
from shmq.memory.segment import create, segment_name
from shmq.observe import litmus
from shmq.transport.membership import register
from tests.crash.namespaces import MOUNT, PID, TIME, be_opaque, inside, make_read_only
from tests.live import GUARD_S, LiveSupervisor, until

SHM = Path("/dev/shm")
TASKS = """
import os
import signal
import shmq

@shmq.task
def echo(x):
    return x

@shmq.task(idempotent=True)
def survive(path):
    if not os.path.exists(path):
        open(path, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "ran again"

@shmq.task
def end_worker():
    os.kill(os.getpid(), signal.SIGKILL)

@shmq.task
def fill_memory():
    return len([bytearray(1 << 20) for _ in range(400)])

@shmq.task
def hold_all_descriptors():
    global held
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return len(held)
"""
SHAPE = Shape(
    groups=1, producers=1, slots_per_producer=16, slot_bytes=256, workers=1, units=4, unit_bytes=4096, arenas=1
)
ONE_WORKER = "[groups.computation]\nmax_workers = 1\n"


def refused_start(live: LiveSupervisor) -> str:
    """Start it; it must refuse. What it said."""
    live.start(wait=False)
    assert live.process is not None
    try:
        assert live.process.wait(GUARD_S) == 1
    finally:
        live.process.kill()
    assert "Traceback" not in live.log()
    return live.log()


def refusal(live: LiveSupervisor) -> str:
    """As `refused_start`, where nothing else runs in the namespace: nothing may be left."""
    try:
        said = refused_start(live)
        live.assert_nothing_left()
        return said
    finally:
        live.discard()


def works(live: LiveSupervisor, path: Path) -> bool:
    """Jobs run, and one that loses its worker runs again."""
    return (
        live.submit("echo", 1).result(GUARD_S) == 1 and live.submit("survive", str(path)).result(GUARD_S) == "ran again"
    )


def open_files() -> int:
    """Descriptors of this process, without those of objects that are garbage."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process cannot open one file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    held = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- /dev/shm ----------------------------------------------------------------------------


def test_in_one_mebibyte_the_start_is_refused_with_the_missing_bytes(tmp_path):
    def body() -> None:
        said = refusal(LiveSupervisor(tmp_path, TASKS))
        assert "/dev/shm has 1048576 free" in said
        assert "--shm-size" in said
        assert os.listdir(SHM) == []

    inside(body, MOUNT, {"/dev/shm": "size=1m"})


def test_the_defaults_fit_and_work_in_the_64_mebibytes_of_docker(tmp_path):
    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER + "[memory]\n") as live:
            assert works(live, tmp_path / "mark")
            assert live.submit("echo", bytes(8 << 20)).result(GUARD_S) == bytes(8 << 20)

    inside(body, MOUNT, {"/dev/shm": "size=64m"})


def test_a_read_only_dev_shm_is_told_to_the_supervisor(tmp_path):
    def body() -> None:
        said = refusal(LiveSupervisor(tmp_path, TASKS))
        assert "/dev/shm: Read-only file system" in said
        assert "docker run" in said

    inside(body, MOUNT, {"/dev/shm": "ro,size=64m"})


def test_a_read_only_dev_shm_is_told_to_a_producer_and_disturbs_nobody(tmp_path):
    def body() -> None:
        make_read_only("/dev/shm")
        with pytest.raises(SystemRefused, match="mounted read-only"):
            live.client()

    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        inside(body, MOUNT)
        assert works(live, tmp_path / "mark")


def test_a_full_dev_shm_delays_new_workers_and_producers_and_loses_nothing(tmp_path):
    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            client = live.client()
            filler = SHM / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(65536))
            job = client.submit("jobs.survive", str(tmp_path / "mark"))
            until(lambda: "no doorbell for a worker can be made in /dev/shm: No space left" in live.log(), "it is told")
            for _ in range(20):  # more often than there are rows
                with pytest.raises(SystemRefused, match="No space left"):
                    live.client()
            filler.unlink()
            assert job.result(GUARD_S) == "ran again"
            assert live.submit("echo", 2).result(GUARD_S) == 2
            assert "Traceback" not in live.log()

    inside(body, MOUNT, {"/dev/shm": "size=32m"})


def test_a_segment_whose_maker_was_killed_before_it_was_whole_is_removed(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER)
    left = SHM / f"shmq-{os.geteuid()}-{live.namespace}.0123abcd"
    left.write_bytes(bytes(4096))
    with live:
        assert not left.exists()


def test_a_segment_that_was_put_aside_for_a_moment_comes_back_with_its_jobs(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER)
    with live:
        live.control("pause", group="computation")
        client = live.client()
        job = client.submit("jobs.echo", 7)
        live.kill()
        until(lambda: not live.processes(), "the workers end with their supervisor")
        path = live.segment.path
        path.rename(path.with_name(path.name + ".old"))  # as a supervisor that was killed while it counted the jobs
        live.start()
        live.control("resume", group="computation")
        assert job.result(GUARD_S) == 7


def test_a_segment_cut_by_a_peer_ends_all_and_is_refused_until_it_is_removed(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        live.submit("echo", 1).result(GUARD_S)
        path = live.segment.path
        live.close_clients()
        os.truncate(path, 8192)
        assert live.process.wait(GUARD_S)  # most often SIGBUS; not 0 in any case
        until(lambda: not live.processes(), "all are gone")
        with pytest.raises(IncompatibleSegment, match="cut or damaged"):
            live.client()
        assert f"rm {path}" in refused_start(live)
        path.unlink()
        live.start()
        assert works(live, tmp_path / "mark")


# -- the state directory -----------------------------------------------------------------


def test_a_state_directory_that_cannot_be_made_is_refused(tmp_path):
    def body() -> None:
        said = refusal(LiveSupervisor(tmp_path, TASKS, env={"XDG_STATE_HOME": "/mnt"}))
        assert "the state directory /mnt/shmq/" in said
        assert "Read-only file system" in said
        assert "set state_dir or XDG_STATE_HOME" in said

    inside(body, MOUNT, {"/mnt": "ro,size=1m"})


def test_a_full_disk_below_the_state_directory_loses_no_job(tmp_path):
    def body() -> None:
        live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER, env={"XDG_STATE_HOME": "/mnt"})
        live.state_dir = Path("/mnt/shmq", live.namespace)
        with live:
            filler = Path("/mnt/filler")
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(512))
            with pytest.raises(Exception, match="lost its worker 3 times"):
                live.submit("end_worker").result(GUARD_S)
            assert "cannot be kept" in live.log()
            assert works(live, tmp_path / "mark")
            assert "recovery broke" not in live.log()

    inside(body, MOUNT, {"/mnt": "size=1m"})


def test_a_second_supervisor_with_another_state_directory_disturbs_nobody(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        (tmp_path / "other").mkdir()
        other = LiveSupervisor(tmp_path / "other", TASKS, ONE_WORKER, namespace=live.namespace)
        worker = live.live_workers()[0]["pid"]
        said = refused_start(other)
        assert f"served by the supervisor with pid {live.pid}" in said
        assert str(live.state_dir) in said
        assert [w["pid"] for w in live.live_workers()] == [worker]
        assert live.submit("echo", 1).result(GUARD_S) == 1


def test_when_the_state_directory_was_removed_no_second_lock_file_is_made(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        client = live.client()
        (live.state_dir / "lock").unlink()
        script = f"from shmq.client.client import Client\nClient({live.namespace!r})"
        late = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=live.env)
        assert "SystemRefused" in late.stderr
        assert str(live.state_dir / "lock") in late.stderr
        assert not (live.state_dir / "lock").exists()
        second = LiveSupervisor(tmp_path, TASKS, ONE_WORKER, namespace=live.namespace)
        second.log_path = tmp_path / "second"
        assert f"stop it with `kill {live.pid}`" in refused_start(second)
        assert client.submit("jobs.echo", 1).result(GUARD_S) == 1


# -- descriptors -------------------------------------------------------------------------


def limited(soft: int, hard: int, open_files: int = 0) -> str:
    """A prelude: what the supervisor inherits from its parent."""
    return (
        f"import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"for _ in range({open_files}): os.open('/dev/null', os.O_RDONLY)"
    )


def test_too_low_a_hard_limit_of_descriptors_is_refused_with_the_figures(tmp_path):
    said = refusal(LiveSupervisor(tmp_path, TASKS, prelude=limited(40, 40)))
    assert "this process may open 40 in all" in said
    assert "--ulimit nofile=" in said


def test_a_low_soft_limit_is_raised_as_far_as_needed_beside_files_that_a_parent_left_open(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=limited(120, 1000, open_files=100)) as live:
        assert len(os.listdir(f"/proc/{live.pid}/fd")) > 100
        assert 164 <= resource.prlimit(live.pid, resource.RLIMIT_NOFILE)[0] < 300
        assert len(os.listdir(f"/proc/{live.live_workers()[0]['pid']}/fd")) < 50
        assert works(live, tmp_path / "mark")


def test_a_producer_without_descriptors_is_refused_takes_no_row_and_connects_later(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        live.submit("echo", 1).result(GUARD_S)  # the lock file is open
        live.close_clients()
        with no_descriptors_left():
            for _ in range(20):  # more often than there are rows
                with pytest.raises(SystemRefused, match=r"may have 256 files open \(ulimit -n\)"):
                    live.client()
        before = open_files()
        taken = [row for row in live.segment.rows("producer_rows") if row[PRODUCER["pid"]]]
        assert taken == []
        clients = [live.client() for _ in range(live.segment.shape.producers)]
        assert clients[-1].submit("jobs.echo", 2).result(GUARD_S) == 2
        live.close_clients()
        del clients
        assert open_files() == before


def test_a_producer_whose_descriptors_ran_out_after_it_connected_goes_on(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        client = live.client()
        echo = client._registry.task("jobs.echo")
        until(lambda: live.segment.view("sleeping").tobytes().count(1) == 1, "the worker sleeps")
        with no_descriptors_left():
            assert client.submit_task(echo, (1,)).result(GUARD_S) == 1
        bells = client._publisher.bells
        assert not bells._of_worker, "a bell that could not be opened is not taken for one whose owner is gone"
        until(lambda: client.submit_task(echo, (2,)).result(GUARD_S) == 2 and bells._of_worker, "it rings again")


def test_a_task_that_takes_all_descriptors_of_its_worker_ends_no_job_of_others(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=limited(200, 200)) as live:
        assert live.submit("hold_all_descriptors").result(GUARD_S) > 100
        worker, client = live.live_workers()[0]["pid"], live.client()  # whose bell the worker has not opened yet
        for size in (1, 100_000, 1):
            assert client.submit("jobs.echo", bytes(size)).result(GUARD_S) == bytes(size)
        assert [w["pid"] for w in live.live_workers()] == [worker]
        assert "Traceback" not in live.log()


def test_without_pidfds_the_start_is_refused(tmp_path):
    forbidden = (
        "import os\ndef pidfd_open(*_): raise PermissionError(1, 'Operation not permitted')\nos.pidfd_open = pidfd_open"
    )
    said = refusal(LiveSupervisor(tmp_path, TASKS, prelude=forbidden))
    assert "pidfd_open does not work here (Operation not permitted)" in said
    assert "seccomp" in said


# -- parents and signals -----------------------------------------------------------------


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


# -- other namespaces --------------------------------------------------------------------


def test_in_another_pid_namespace_supervisor_and_producer_are_refused_and_told_the_way_out(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER)

    def body() -> None:
        second = LiveSupervisor(tmp_path, TASKS, ONE_WORKER, namespace=live.namespace)
        second.log_path, second.state_dir = tmp_path / "second", tmp_path / "elsewhere"
        second.env["XDG_STATE_HOME"] = str(second.state_dir)
        said = refused_start(second)
        assert "another pid namespace" in said
        assert f"rm {SHM}/shmq-" in said
        with pytest.raises(IncompatibleSegment, match="another pid namespace"):
            second.client()

    with live:
        inside(body, MOUNT | PID)
        assert works(live, tmp_path / "mark")


def test_in_another_time_namespace_a_producer_is_refused(tmp_path):
    def body() -> None:
        with pytest.raises(IncompatibleSegment, match="another time namespace"):
            live.client()

    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        inside(body, TIME)
        assert works(live, tmp_path / "mark")


def test_in_a_time_namespace_of_its_own_the_whole_tree_works(tmp_path):
    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            assert works(live, tmp_path / "mark")
            assert live.submit("echo", 3, delay=0.01).result(GUARD_S) == 3

    inside(body, TIME)


def test_after_a_supervisors_death_a_stranger_with_a_workers_pid_is_left_alone(tmp_path):
    last = Path("/proc/sys/kernel/ns_last_pid")
    if not last.exists():
        pytest.skip("this kernel cannot be told the next pid (CONFIG_CHECKPOINT_RESTORE)")

    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            live.control("pause", group="computation")
            job = live.submit("echo", 5)
            worker = live.live_workers()[0]["pid"]
            live.kill()
            reap(worker)
            stranger = process_with_pid(worker, last)
            producer = live.segment.rows("producer_rows")[0]
            assert producer[PRODUCER["pid"]] == os.getpid()
            live.start()
            assert stranger.poll() is None, "it was taken for the worker"
            live.control("resume", group="computation")
            assert job.result(GUARD_S) == 5
            stranger.kill()
            stranger.wait()

    inside(body, MOUNT | PID)


def test_a_dead_producers_row_is_reused_although_its_pid_is(tmp_path):
    last = Path("/proc/sys/kernel/ns_last_pid")
    if not last.exists():
        pytest.skip("this kernel cannot be told the next pid (CONFIG_CHECKPOINT_RESTORE)")

    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            script = (
                f"import os; from shmq.client.client import Client; Client({live.namespace!r}); os.kill(os.getpid(), 9)"
            )
            producer = subprocess.Popen([sys.executable, "-c", script], env=live.env)
            producer.wait()
            stranger = process_with_pid(producer.pid, last)
            rows = live.segment.rows("producer_rows")
            until(lambda: not any(row[PRODUCER["pid"]] for row in rows), "recovery takes the row over")
            assert stranger.poll() is None
            stranger.kill()
            stranger.wait()

    inside(body, MOUNT | PID)


def reap(pid: int) -> None:
    """As the first process of a pid namespace must."""
    until(lambda: os.waitpid(-1, os.WNOHANG)[0] == pid, f"{pid} ends")


def process_with_pid(pid: int, last: Path) -> subprocess.Popen[bytes]:
    """A process that has nothing to do with shmq."""
    for _ in range(100):
        last.write_text(str(pid - 1))
        made = subprocess.Popen(["sleep", "600"])
        if made.pid == pid:
            return made
        made.kill()
        made.wait()
    raise AssertionError(f"no process got pid {pid}")


def test_a_living_process_that_nobody_may_look_into_keeps_its_row(namespace):
    def body() -> None:
        be_opaque()
        folder, me = Path(tempfile.mkdtemp()), os.getpid()
        segment = create(segment_name(namespace), SHAPE, groups=["g"], state_dir=folder, max_attempts=3)
        lock_file = locks.open_once(folder / "lock", create=True)
        row = register(segment, lock_file)
        lock_file.release(locks.producer_byte(row.index))  # as if its code had closed the file

        def look() -> None:
            lock_file.forget()
            with pytest.raises(PermissionError):
                Path(f"/proc/{me}/maps").read_bytes()
            with pytest.raises(TooManyProducers):
                register(segment, lock_file)

        try:
            inside(look)
        finally:
            row.bell.remove()
            segment.path.unlink()
            shutil.rmtree(folder)

    inside(body)


# -- memory cgroups ----------------------------------------------------------------------


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


def test_a_worker_that_the_kernel_kills_for_memory_takes_nobody_along(tmp_path, cgroup):
    prelude = within(cgroup(192 << 20))
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=prelude) as live:
        pid, recovery, server = live.pid, live.named("shmq: recovery"), live.named("shmq: fork server")
        with pytest.raises(WorkerLost, match="out of memory"):
            live.submit("fill_memory").result(GUARD_S)
        assert works(live, tmp_path / "mark")
        assert (pid, recovery, server) == (live.pid, live.named("shmq: recovery"), live.named("shmq: fork server"))
