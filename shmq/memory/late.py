"""numpy for who may never need it: imported whole or not at all, when a block or an array is first wanted.

A producer of small plain values does without: importing numpy takes longer than all else that it imports. Late means
in the middle of anything, so a thread of its own imports: no exception of a signal handler cuts it off there, which
would be for good, and no fork happens meanwhile, whose child would wait for that thread for ever. Nor is garbage
collected there: a finalizer that submits would wait for a client's lock, whose holder waits for that thread.

What still hangs: a handler that cuts into the main thread's own `import numpy` and submits, while another thread of the
same client waits here, with the client's lock, for that very import.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HOME = "shmq.memory.columns"  # ours with numpy in it
_importing = threading.RLock()
_is_loaded = False


def load() -> None:
    """Have numpy imported. Raises what importing it raises; then the next call tries again."""
    global _is_loaded
    if _is_loaded:
        return
    if "numpy" in sys.modules:  # or somebody is at it: waits as an import statement does
        importlib.import_module(_HOME)
    else:
        _import_apart()
    _is_loaded = True


def _import_apart() -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with _importing:
                importlib.import_module(_HOME)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    with _no_garbage_collected():
        if sys.is_finalizing():  # a thread would never begin
            run()
        else:
            thread = threading.Thread(target=run, name="shmq-import-numpy")
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                run()
            else:
                thread.join()
    if failures:
        raise failures[0]


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release)
