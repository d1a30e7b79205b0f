"""The write-once header of a job, and the word that says where its result is.

    offset  size  field
    0       8     task key (blake2b-8 of the task's name)
    8       4     length of the message in bytes
    12      1     argument count, or VARIADIC when the message carries [args, kwargs]
    13      1     kind: CALL, MANY (a chunk of map), STREAM (a chunk of stream)
    14      1     flags: FORGET (nobody reads the result), PLAIN (a CALL with positional arguments that follow the
                  header, without limits of its own), bits 4-7 lane (priority - 1)
    15      1     retries allowed
    16      8     submitted: monotonic ns
    24      8     block: first unit + 1 when the message lies in a block, 0 when it follows the header
    32      8     time limit in ns, 0 = none
    40      8     expires: monotonic ns, 0 = never
    48      8     job id of the task that submitted this job, 0 = none

Each 8 bytes are one aligned word: of a slot's next job by the same call only the length and the third change.
A job id is `generation << 32 | slot`: unique for the life of a segment.
Result word: `length << 32 | place << 8 | kind` with `place` a byte offset in the slot or a unit.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<QIBBBBQQQQQ")
HEADER_BYTES = 56
assert HEADER.size <= HEADER_BYTES
KEY_WORD, CALL_WORD, SUBMITTED_WORD, BLOCK_WORD, LIMIT_WORD, EXPIRES_WORD, PARENT_WORD = range(7)
"""The header as u64 words; CALL_WORD holds length, argument count, kind, flags and retries."""

CALL, MANY, STREAM = 0, 1, 2
FORGET, PLAIN = 1, 2
FLAGS_SHIFT = 48  # of the flags in CALL_WORD
LANE_SHIFT = 4
KIND_OFFSET, FLAGS_OFFSET = 13, 14
VARIADIC = 255
"""Argument count that means: the message is [args, kwargs]."""
INHERIT_RETRIES = 255
"""Retries that mean: as many as its task says, else its group's configuration."""

INLINE, BLOCK = 0, 1
REFERENCES = 2
STREAMED = 4
"""Kinds of a result word; REFERENCES is added when the message refers to arrays in blocks, STREAMED when parts
of the result may still lie in the ring that the word of `streams` names."""


class Header(NamedTuple):
    """A header's fields, in their order."""

    key: int
    length: int
    nargs: int
    kind: int
    flags: int
    retries: int
    submitted_ns: int
    block: int
    timeout_ns: int
    expires_ns: int
    parent: int


def call_word(nargs: int, kind: int, flags: int, retries: int) -> int:
    """The word at CALL_WORD, but for the length."""
    return nargs << 32 | kind << 40 | flags << 48 | retries << 56


def result_word(length: int, place: int, kind: int) -> int:
    """Pack a result word."""
    return (length << 32) | (place << 8) | kind


def result_room(slot_bytes: int, inline_bytes: int) -> tuple[int, int]:
    """(offset, capacity) of the result behind `inline_bytes` of arguments in the slot."""
    at = HEADER_BYTES + (inline_bytes + 7 & ~7)
    return at, max(slot_bytes - at, 0)
