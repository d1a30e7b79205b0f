"""What a task raises comes back: built-in types as themselves, others as TaskFailed, never a dead worker."""

from __future__ import annotations

import builtins
import pickle
import traceback

import pytest

import shmq
from shmq.errors import BadArguments, JobError, JobRejected, TaskFailed, TooLarge, Unencodable, WorkerLost
from tests.client import declared

pytestmark = pytest.mark.usefixtures("client")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("ValueError", ["bad", 3]),
        ("KeyError", ["k"]),
        ("ZeroDivisionError", []),
        ("OSError", [2, "No such file", "/x"]),
        ("StopIteration", [7]),
        ("MemoryError", ["much"]),
        ("NotImplementedError", []),
        ("UnicodeError", ["u"]),
        ("AssertionError", ["no"]),
        ("TimeoutError", ["late"]),
        ("RecursionError", ["deep"]),
    ],
)
def test_built_in_exceptions_come_back_as_themselves(name, args):
    kind = getattr(builtins, name)
    with pytest.raises(kind) as caught:
        declared.fail_as.submit(name, *args).result(10)
    assert type(caught.value) is type(kind(*args))  # OSError picks its subclass by errno
    assert caught.value.args == kind(*args).args


def test_an_exception_whose_constructor_is_odd_still_tells_its_text():
    with pytest.raises((UnicodeDecodeError, TaskFailed)) as caught:
        declared.fail_as.submit("UnicodeDecodeError", "utf-8", b"\xff", 0, 1, "because").result(10)
    assert "because" in str(caught.value)


def test_other_exceptions_come_back_with_their_name_and_text():
    with pytest.raises(TaskFailed, match="Odd: strange thing") as caught:
        declared.fail_as.submit("Odd", "strange thing").result(10)
    assert caught.value.type_name == "tests.client.declared.Odd"


def test_the_remote_traceback_is_the_cause_and_names_the_line():
    with pytest.raises(ValueError, match="second") as caught:
        declared.fail_deeply.submit().result(10)
    shown = "".join(traceback.format_exception(caught.value))
    assert "_inner_step_of_fail_deeply" in shown
    assert "KeyError: 'first'" in shown  # the cause of the remote exception as well
    assert "declared.py" in str(caught.value.__cause__)


def test_exception_returns_what_result_would_raise():
    error = declared.fail_as.submit("KeyError", "k").exception(10)
    assert isinstance(error, KeyError)
    assert declared.echo.submit(1).exception(10) is None


def test_a_result_that_is_read_twice_raises_twice():
    job = declared.fail_as.submit("ValueError", "x")
    for _ in range(3):
        with pytest.raises(ValueError, match="x"):
            job.result(10)


def test_a_text_that_fails_does_not_hide_the_exception():
    with pytest.raises(TaskFailed, match=r"Unspeakable: <str\(\) of the exception raised RuntimeError>"):
        declared.fail_as.submit("Unspeakable").result(10)


def test_a_lone_surrogate_in_the_text_is_shown_escaped():
    with pytest.raises(ValueError, match=r"lone .*udc80 surrogate"):
        declared.fail_with_surrogate.submit().result(10)


@pytest.mark.parametrize("size", [300, 5_000, 60_000, 1_000_000])
def test_texts_of_any_length_come_back(size):
    with pytest.raises(ValueError, match="xxx") as caught:
        declared.fail_at_length.submit(size).result(10)
    assert len(str(caught.value)) >= min(size, 60_000)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SystemExit", "sys.exit"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("AbortAll", "AbortAll"),
        ("GeneratorExit", "GeneratorExit"),
    ],
)
def test_exceptions_that_would_end_a_process_end_the_job_only(name, text):
    with pytest.raises(TaskFailed, match=text) as caught:
        declared.fail_as.submit(name).result(10)
    assert "fail_as" in str(caught.value.__cause__)
    assert declared.echo.submit(1).result(10) == 1


def test_sys_exit_in_a_task_names_its_code():
    with pytest.raises(TaskFailed, match=r"sys\.exit\(3\)"):
        declared.leave.submit(3).result(10)


def test_endless_recursion_is_a_recursion_error():
    with pytest.raises(RecursionError):
        declared.recurse.submit().result(10)
    assert declared.echo.submit(1).result(10) == 1


def test_a_task_that_runs_too_long_gets_a_timeout():
    with pytest.raises(shmq.TaskTimeout, match=r"time limit of 0\.1 s") as caught:
        declared.spin.submit().result(10)
    assert isinstance(caught.value, TimeoutError)


def test_the_time_limit_of_one_job_can_be_set():
    with pytest.raises(shmq.TaskTimeout):
        declared.spin_for.options(timeout=0.05).submit(5.0).result(10)
    assert declared.spin_for.options(timeout=5.0).submit(0.1).result(10) is None


def test_a_rejected_job_is_not_tried_again():
    with pytest.raises(JobRejected, match="bad data"):
        declared.reject.options(retries=5).submit("bad data").result(10)


def test_a_task_that_fails_at_first_is_tried_again(tmp_path):
    assert declared.succeed_at.submit(str(tmp_path / "a"), 3).result(10) == 3
    with pytest.raises(ConnectionError, match="not yet"):
        declared.succeed_at.submit(str(tmp_path / "b"), 4).result(10)
    assert (tmp_path / "b").read_bytes() == b"..."  # the first and two retries
    with pytest.raises(ConnectionError):
        declared.succeed_at.options(retries=0).submit(str(tmp_path / "c"), 2).result(10)
    assert (tmp_path / "c").read_bytes() == b"."


def test_a_job_that_kills_its_workers_is_lost_and_says_how():
    with pytest.raises(WorkerLost, match="SIGKILL"):
        declared.die.submit().result(20)
    assert declared.echo.submit(1).result(10) == 1


@pytest.mark.parametrize(
    ("task", "args", "kind"),
    [
        (declared.typed_number, ("three",), BadArguments),
        (declared.unencodable_result, (), Unencodable),
        (declared.give, (1 << 25,), TooLarge),
    ],
)
def test_what_only_the_worker_could_refuse_is_the_end_of_an_accepted_job_as_well(task, args, kind):
    with pytest.raises(JobError) as caught:
        task.submit(*args).result(10)
    assert isinstance(caught.value, kind)
    assert type(caught.value).__name__ == kind.__name__
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.args) == (type(caught.value), caught.value.args)


def test_a_result_that_is_not_what_the_task_says_is_a_job_error():
    with pytest.raises(JobError, match="Does the task return what its annotation says"):
        declared.wrong_result.submit().result(10)


def test_a_coroutine_that_kept_the_loop_past_its_time_limit_has_timed_out():
    with pytest.raises(shmq.TaskTimeout, match=r"time limit of 0\.2 s"):
        declared.block_the_loop.submit(0.5).result(10)
    assert declared.block_the_loop.submit(0.0).result(10) == 0.0
