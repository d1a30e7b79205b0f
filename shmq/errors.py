"""Every exception that shmq raises, as one tree.

ShmqError
├── ConfigError              the configuration cannot be used (all problems at once)
├── NotRunning               no supervisor serves the namespace
├── AlreadyRunning           another supervisor serves the namespace
├── IncompatibleSegment      the segment is of another layout, shape, host or owner
├── NoSpace                  /dev/shm or the memory cgroup is too small
├── SystemRefused            the operating system refuses what shmq needs: files, descriptors, rights
├── Detached                 the segment's name was removed under us
├── TooManyProducers         every producer row is taken
├── SubmitError
│   ├── UnknownTask          nobody registered that name
│   ├── UnknownGroup
│   ├── BadArguments         (TypeError) the task does not take these arguments
│   ├── Unencodable          (TypeError) a value cannot travel
│   ├── TooLarge             (ValueError) a value exceeds the block budget
│   ├── QueueFull            no slot became free in time
│   ├── ReentrantSubmit      a signal handler or finalizer entered a busy client
│   └── ClientClosed
├── JobError
│   ├── TaskFailed           the task raised a type that cannot be rebuilt here
│   ├── TaskTimeout          (TimeoutError) the job ran past its time limit
│   ├── JobCancelled         (CancelledError)
│   ├── JobExpired           not started before its `expires`
│   ├── JobRejected          the task raised Reject
│   ├── WorkerLost           the worker died too often while it ran this job, or after parts of it were read
│   ├── CircuitOpen          the group or task fails fast at present
│   └── WouldDeadlock        a wait inside a task can never end
└── TracingError             memory tracing cannot start or go on

What only the worker finds - an argument of a wrong type, a result that cannot travel - is raised by `result()` as the
SubmitError that it is (BadArguments, Unencodable, TooLarge, ...), and is a JobError as well: the job had been accepted.

Raised by tasks, for the worker: Retry, Reject.
"""

from __future__ import annotations

from concurrent.futures import CancelledError


class ShmqError(Exception):
    """Base of every error that shmq raises."""


class ConfigError(ShmqError):
    """The configuration cannot be used; `problems` lists every reason, one sentence each."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class NotRunning(ShmqError):
    """No supervisor serves the namespace."""


class AlreadyRunning(ShmqError):
    """Another supervisor serves the namespace; the message names it."""


class IncompatibleSegment(ShmqError):
    """A segment exists but this program must not use it (layout, shape, owner, namespace)."""


class NoSpace(ShmqError):
    """/dev/shm or the memory cgroup cannot hold the segment; the message gives the missing bytes."""


class SystemRefused(ShmqError):
    """The operating system refuses what shmq needs (a folder, a semaphore, descriptors); nothing was changed."""


class Detached(ShmqError):
    """The segment's name was removed while processes use it."""


class TooManyProducers(ShmqError):
    """Every producer row is held by a living process."""


class SubmitError(ShmqError):
    """A job was not accepted; nothing of it exists."""


class UnknownTask(SubmitError):
    """No worker has registered that task."""


class UnknownGroup(SubmitError):
    """The supervisor runs no such group."""


class BadArguments(SubmitError, TypeError):
    """The task does not take these arguments."""


class Unencodable(SubmitError, TypeError):
    """A value cannot travel between processes."""


class TooLarge(SubmitError, ValueError):
    """A value is larger than the block budget can hold."""


class QueueFull(SubmitError):
    """No slot or lane entry became free in time."""


class ReentrantSubmit(SubmitError):
    """The same thread is already inside the client (signal handler, finalizer)."""


class ClientClosed(SubmitError):
    """The client was closed."""


class JobError(ShmqError):
    """An accepted job ended without a result."""


class TaskFailed(JobError):
    """The task raised an exception whose type is not rebuilt here.

    `type_name` is the remote type's qualified name; the remote traceback is `__cause__`.
    """

    def __init__(self, message: str, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name


class TaskTimeout(JobError, TimeoutError):
    """The job ran past its time limit. Raised inside the task first, so that it can clean up."""


class JobCancelled(JobError, CancelledError):
    """The job was cancelled before it ended."""


class JobExpired(JobError):
    """The job was not started before its `expires`."""


class JobRejected(JobError):
    """The task refused the job for good (`raise shmq.Reject(reason)`)."""


class WorkerLost(JobError):
    """The worker died while it ran this job: `max_attempts` times, or once after a part of its stream had been read."""


class CircuitOpen(JobError):
    """The circuit breaker of the group or task is open and set to fail fast."""


class WouldDeadlock(JobError):
    """A task waits for a job that no worker can ever take."""


class TracingError(ShmqError):
    """Memory tracing cannot start or go on."""


class Retry(Exception):
    """Raised by a task: run this job again after `delay_s` (None: the task's backoff)."""

    def __init__(self, delay_s: float | None = None) -> None:
        super().__init__(delay_s)
        self.delay_s = delay_s


class Reject(Exception):
    """Raised by a task: this job can never succeed; dead-letter it now."""
