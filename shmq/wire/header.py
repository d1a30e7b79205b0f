"""The write-once header of a job, and the word that says where its result is.

    offset  size  field
    0       8     task key (blake2b-8 of the task's name)
    8       4     length of the message in bytes
    12      4     block: first unit + 1 when the message lies in a block, 0 when it follows here
    16      1     argument count, or VARIADIC when the message carries [args, kwargs]
    17      1     kind: CALL, MANY (a chunk of map), STREAM (a chunk of stream)
    18      1     flags: bits 0-3 FORGET (nobody reads the result), bits 4-7 lane (priority - 1)
    19      1     retries allowed
    20      8     time limit in ns, 0 = none
    28      8     expires: monotonic ns, 0 = never
    36      8     submitted: monotonic ns
    44      8     job id of the task that submitted this job, 0 = none

A job id is `generation << 32 | slot`: unique for the life of a segment.
Result word: `length << 32 | place << 8 | kind` with `place` a byte offset in the slot or a unit.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<QIIBBBBQQQQ")
HEADER_BYTES = 56
assert HEADER.size <= HEADER_BYTES

CALL, MANY, STREAM = 0, 1, 2
FORGET = 1
LANE_SHIFT = 4
KIND_OFFSET, FLAGS_OFFSET = 17, 18
VARIADIC = 255
"""Argument count that means: the message is [args, kwargs]."""

INLINE, BLOCK = 0, 1
REFERENCES = 2
STREAMED = 4
"""Kinds of a result word; REFERENCES is added when the message refers to arrays in blocks, STREAMED when parts
of the result may still lie in the ring that the word of `streams` names."""


def result_word(length: int, place: int, kind: int) -> int:
    """Pack a result word."""
    return (length << 32) | (place << 8) | kind


def result_room(slot_bytes: int, inline_bytes: int) -> tuple[int, int]:
    """(offset, capacity) of the result behind `inline_bytes` of arguments in the slot."""
    at = HEADER_BYTES + (inline_bytes + 7 & ~7)
    return at, max(slot_bytes - at, 0)
