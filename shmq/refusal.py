"""What to say when the operating system refuses: what was to be done, its reason with figures, and what helps."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from shmq.errors import ShmqError, SystemRefused

_READ_ONLY = (
    "It is mounted read-only. Mount it writable (docker run --tmpfs PATH; Kubernetes: an emptyDir), "
    "or choose another place."
)
_FORBIDDEN = "User {uid} may not write there. Check owner and mode, or choose another place."
_FULL = "No space, no inode or no quota is left there. Free some, or give it more."
_HINTS = {
    errno.EMFILE: "This process may have {files} files open (ulimit -n), all are. Close some, or raise the limit.",
    errno.ENFILE: "The whole host has too many files open. See sysctl fs.file-max.",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENOMEM: "Memory, or address space (ulimit -v), does not suffice. Free some, or raise the limit.",
    errno.ENOLCK: "That file system has no record locks (NFS without a lock service). Choose a local folder.",
    errno.EOPNOTSUPP: "That file system cannot do it. Choose a folder on a local one.",
}


def refused(what: str, error: OSError) -> SystemRefused:
    """The error to raise instead of `error`; `what` begins the sentence and names the path."""
    hint = _HINTS.get(error.errno or 0, "").format(
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[0], uid=os.geteuid()
    )
    return SystemRefused(f"{what}: {error.strerror or error}.\n{hint}".rstrip())


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn an OSError of the block into SystemRefused; shmq's own errors pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ShmqError):
            raise
        raise refused(what, error) from error
