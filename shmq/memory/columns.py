"""numpy's view of the segment, for questions about whole columns ("where is work?").

Kept apart from `segment` because the supervisor must not import numpy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


class BlockColumns(NamedTuple):
    """What `shmq.memory.blocks` looks at as a whole."""

    tags: NDArray[np.uint64]
    pins: NDArray[np.uint32]  # by unit: a producer's, a worker's
    words: NDArray[np.uint64]
    data: NDArray[np.uint8]
    address: int  # of the data, in this process

    @classmethod
    def of(cls, segment: Segment) -> BlockColumns:
        """Those of a segment."""
        tags, pins, words, data = (column(segment, name) for name in ("tags", "pins", "words", "blocks"))
        return cls(tags, pins, words, data.reshape(-1), int(data.__array_interface__["data"][0]))
