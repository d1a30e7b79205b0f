"""Exit codes of every command, and which error leads to which."""

from __future__ import annotations

from shmq.errors import ConfigError, NotRunning

OK = 0
FAILED = 1  # a job failed, or what was looked at is not well; stderr has the details
USAGE = 2  # the command line is wrong; click's own
REFUSED = 3  # shmq refused, with its reason on stderr
NOT_RUNNING = 4  # no supervisor serves the namespace
BAD_CONFIG = 5  # the configuration cannot be used
BUG = 70  # an error that should not be; sysexits.h calls it EX_SOFTWARE
INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as shells report it
CLOSED_PIPE = 141  # whoever read the output has gone: 128 + SIGPIPE, likewise
TERMINATED = 143  # 128 + SIGTERM, likewise


class Terminated(KeyboardInterrupt):
    """SIGTERM, for commands that tidy up as they do at Ctrl-C.

    A KeyboardInterrupt, because posix_ipc, where doorbells need it, loses other exceptions of signal handlers.
    """


def code_of(error: BaseException) -> int:
    """The exit code that an error leads to."""
    if isinstance(error, KeyboardInterrupt):
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    if isinstance(error, NotRunning):
        return NOT_RUNNING
    return BAD_CONFIG if isinstance(error, ConfigError) else REFUSED
