"""The few things of Linux that Python does not offer ready-made: prctl, and forks that inherit nothing."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import time

from shmq.errors import SystemRefused
from shmq.refusal import told

_log = logging.getLogger("shmq.kernel")
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK, _PR_SET_CHILD_SUBREAPER = 1, 29, 36
_libc = ctypes.CDLL(None, use_errno=True)  # once: each makes a class of its own, in every worker
_DEFAULT_IN_CHILD = (signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def die_with_parent(parent_pid: int, how: signal.Signals = signal.SIGKILL) -> bool:
    """Send me a signal when my parent ends; False when `parent_pid` does not become my parent.

    A worker is forked twice and re-parented when its middle process ends: wait for that first,
    since the death signal belongs to the parent at the time of the call.
    """
    give_up = time.monotonic() + 5.0
    while os.getppid() != parent_pid:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.0002)
    _prctl(_PR_SET_PDEATHSIG, how)
    return os.getppid() == parent_pid  # it may have died before the signal was set


def be_punctual() -> None:
    """Short sleeps of this thread end when asked, not up to 50 µs later."""
    _prctl(_PR_SET_TIMERSLACK, 1_000)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent ended (subreaper)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def require_pidfds() -> None:
    """Raise SystemRefused where there is no pidfd_open: without it a signal may reach the wrong process."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise SystemRefused(
            f"pidfd_open does not work here ({error.strerror}); signals to workers need it.\n"
            "It takes Linux 5.3 or newer, and a container whose seccomp filter knows it (Docker 20.10)."
        ) from error


def reserve_descriptors(count: int) -> None:
    """Make sure that so many more files can be opened; the soft limit is raised as far as the hard one allows.

    Raises:
        SystemRefused: the hard limit is too low, with the figures.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with told("the open files of this process cannot be counted"):
        used = len(os.listdir("/proc/self/fd"))
    if soft == resource.RLIM_INFINITY or used + count <= soft:
        return
    if hard != resource.RLIM_INFINITY and used + count > hard:
        raise SystemRefused(
            f"{used} files are open and {count} more may be needed, but this process may open {hard} in all.\n"
            "Raise the limit (ulimit -Hn, docker run --ulimit nofile=, LimitNOFILE=), or lower [memory] max_workers."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + count, hard))


def prefer_for_oom(score: int) -> None:
    """When memory runs out let the kernel kill this process before those of a lower score, and the user's own."""
    try:
        # not `open`: all that it touches, 150 KiB, would be the worker's own from then on
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % score)
        finally:
            os.close(fd)
    except OSError as error:
        _log.info("oom_score_adj stays as it is: %s", error)


def open_standard_streams() -> None:
    """Put /dev/null where the caller closed stdin, stdout or stderr, before a file of ours gets that number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def fork(*, keep: tuple[int, ...]) -> int:
    """Fork a process that shall stay; as `os.fork`. The child has default signal handlers, ignores SIGINT
    and SIGTERM (its parent decides about its end) and has only stdio and the descriptors of `keep`.

    Signals are blocked meanwhile: one that reached the child before it drops the inherited wake-up
    descriptor would be counted by the parent as its own. A listener or socket end that a child holds by
    accident keeps a peer waiting for an end-of-file that never comes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in _DEFAULT_IN_CHILD:
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C and a SIGTERM to the whole tree (systemd, timeout) reach everybody: the parent leads the end
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _close_all_but({0, 1, 2, *keep})
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _close_all_but(keep: set[int]) -> None:
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:  # the descriptor that listed the folder
                continue
