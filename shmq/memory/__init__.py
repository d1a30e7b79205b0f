"""Bytes of the segment and who may write them. As a function, `shmq.memory()`: what each group uses, and why."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The public function has the package's name: whoever calls the package means the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("shmq.memcheck.usage.look").memory(*args, **kwargs)


memory = sys.modules[__name__]  # what `shmq.memory` is, however it was reached
memory.__class__ = _Callable
