"""What becomes of a job whose task raised: retry, failure, dead letter.

A retry goes RUNNING → SCHEDULED with the crash paid in advance given back; the pause before it is
exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.clock import now_ns, to_ns
from shmq.errors import (
    BadArguments,
    CircuitOpen,
    JobExpired,
    JobRejected,
    Reject,
    Retry,
    TaskFailed,
    TaskTimeout,
    UnknownTask,
)
from shmq.tasks.task import Options
from shmq.transport.table import CRASH, FAILURE, failures_of

if TYPE_CHECKING:
    from shmq.tasks.signature import Signature

_MOST_FAILURES = 255
_POSITION = re.compile(r" - at `\$\[(\d+)\](.*)`$")
_FINAL = (Reject, BadArguments, CircuitOpen, JobExpired, UnknownTask)
"""Trying again cannot help, or would be too late."""


class StreamClosed(Exception):
    """The reader closed the stream, or cancelled a generator's job: it ends as cancelled, at a yield."""


class Outdated(Exception):
    """This worker is about to be replaced, and does not know the task: the job starts again in a newer one."""


class StreamGivenBack(Exception):
    """The worker drains while a stream waits of which nothing was read: it starts again elsewhere."""


def pause_s(options: Options, failures: int) -> float:
    """Seconds before attempt `failures + 1`: uniform between 0 and the capped exponential."""
    return random.uniform(0.0, min(options.max_backoff, options.backoff * 2.0 ** min(failures, 60)))


def retry_due(error: BaseException, word: int, options: Options | None, retries: int) -> int | None:
    """Monotonic ns at which the job runs again, or None when it must not."""
    failures = failures_of(word)
    if options is None or failures >= min(retries, _MOST_FAILURES) or isinstance(error, _FINAL):
        return None
    if isinstance(error, Retry):
        delay = error.delay_s if error.delay_s is not None else pause_s(options, failures)
        return now_ns() + to_ns(delay)
    wanted = isinstance(error, options.retry_on) and not isinstance(error, options.give_up_on)
    return now_ns() + to_ns(pause_s(options, failures)) if wanted else None


def retried_word(word: int) -> int:
    """The word of a failed attempt: one failure more, the crash paid at its start given back."""
    return word + FAILURE - CRASH


def as_job_error(error: BaseException, task_name: str) -> BaseException:
    """The error as the handle shall raise it."""
    if isinstance(error, Reject):
        return JobRejected(f"{task_name} rejected the job: {error}")
    if isinstance(error, Retry):
        return TaskFailed(f"{task_name} asked for a retry, but none is left", "shmq.Retry")
    if isinstance(error, SystemExit):
        return _keep_traceback(TaskFailed(f"{task_name} called sys.exit({error.code!r})", "SystemExit"), error)
    if not isinstance(error, Exception) and not isinstance(error, TaskTimeout):
        return _keep_traceback(
            TaskFailed(f"{task_name} raised {type(error).__name__}: {error}".rstrip(": "), type(error).__name__), error
        )
    return error


def _keep_traceback(error: Any, origin: BaseException) -> BaseException:
    error.__traceback__ = origin.__traceback__
    return error  # type: ignore[no-any-return]


def named(error: BaseException, name: str, signature: Signature | None = None) -> BaseException:
    """What decoding found wrong with the arguments, as an error that names the task and the argument."""
    if not isinstance(error, msgspec.ValidationError) or not _is_own(error):
        return error
    what = str(error)
    found = _POSITION.search(what)
    if found is not None and signature is not None and not what.startswith("argument "):
        names = [parameter.name for parameter in signature.positional]
        at, rest = int(found[1]), found[2]
        if at < len(names):
            what = f"argument {names[at]!r}: {what[: found.start()]}" + (f" - at `{rest}`" if rest else "")
    return BadArguments(f"{name}: {what}.\nCompare the arguments with the task's annotations.")


def _is_own(error: BaseException) -> bool:
    """Was it raised by shmq's decoding, and not by a task that decodes something itself?"""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or str(trace.tb_frame.f_globals.get("__name__", "")).startswith("shmq.")
