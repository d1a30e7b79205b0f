"""numpy's view of the segment, for questions about whole columns ("where is work?").

Kept apart from `segment` because the supervisor must not import numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq.memory.layout import FIELD, WORD
from shmq.memory.segment import Segment

_DTYPES = {WORD: np.uint64, "I": np.uint32, "B": np.uint8}


def column(segment: Segment, name: str) -> NDArray[Any]:
    """The field as an array of its full dimensions, sharing the segment's bytes.

    `np.frombuffer` (never `np.ndarray(buffer=...)`) holds the mapping while the array lives.
    """
    array = np.frombuffer(segment.view(name), dtype=_DTYPES[FIELD[name].code])
    return array.reshape(segment.layout.extent(name))
