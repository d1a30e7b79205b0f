"""Values to bytes and back: msgpack by msgspec, numpy arrays beside it.

An array up to INLINE_ARRAY_BYTES travels inside the message; a larger one is copied once into a
block and the message holds a reference, so that the reader gets a view without copying.

    ext 1  reference  <unit u32><nbytes u64><dtype length u8><dtype><dimension u64>*
    ext 2  inline     <dtype length u8><dims u8><dtype><dimension u64>*<raw bytes>
    ext 3  text       that stands for other bytes than UTF-8, as `os.fsdecode` makes it of a file's name: <the bytes>

A message with such text is decoded plainly first, then converted to its types: no typed decoder takes ext for str.
Paths travel as text. Every other ext code is refused. Decoding always works on a private copy of the message.
"""

from __future__ import annotations

import struct
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeGuard, get_origin

import msgspec

from shmq.errors import TooLarge, Unencodable
from shmq.memory import late
from shmq.memory.blocks import BlockPool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INLINE_ARRAY_BYTES = 4096
_REFERENCE, _INLINE, _TEXT = 1, 2, 3
_REF = struct.Struct("<IQ")
_KINDS = 256  # of arrays, by type and shape, whose description is kept: neighbours are most often alike


ENCODING_ERRORS = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoding a user's value may raise. Never `Exception`: a signal handler may raise anything there."""

DECODING_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, RecursionError, struct.error)
"""What damaged or unexpected bytes may raise."""


class NeedsBlocks(Exception):
    """The value holds arrays."""


def needs_blocks(_value: Any) -> Any:
    """Encoder hook of the hot paths: whatever is not plain is left to `Encoder`."""
    raise NeedsBlocks


def is_array(value: Any) -> TypeGuard[NDArray[Any]]:
    """Is it an ndarray? numpy itself is not imported for that: before somebody does there is none."""
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    return isinstance(kind, type) and isinstance(value, kind)


def is_scalar(value: Any) -> TypeGuard[np.generic]:
    """Is it a scalar of numpy's?"""
    kind = getattr(sys.modules.get("numpy"), "generic", None)
    return isinstance(kind, type) and isinstance(value, kind)


@lru_cache(maxsize=_KINDS)
def _description(kind: type, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """<dtype length u8><dtype><dimension u64>* of an array. Raises TypeError for one that cannot travel."""
    import numpy as np

    if issubclass(kind, np.ma.MaskedArray):
        raise TypeError(
            "a masked array cannot travel: its mask would be lost; pass `.data` and `.mask`, or `.filled()`"
        )
    if dtype.hasobject or dtype.names:
        raise TypeError(f"an array of dtype {dtype} cannot travel (objects, named fields)")
    name = dtype.str.encode()
    return bytes((len(name),)) + name + struct.pack(f"<{len(shape)}Q", *shape)


@lru_cache(maxsize=_KINDS)
def _type_and_shape(description: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What a description says. Damaged ones raise almost anything."""
    late.load()
    import numpy as np

    name, dims = description[1 : 1 + description[0]], description[1 + description[0] :]
    return np.dtype(name.decode()), struct.unpack(f"<{len(dims) // 8}Q", dims)


class Encoded:
    """A message that is encoded already, as a value to encode: it goes in as it is."""

    __slots__ = ("data", "has_references")

    def __init__(self, data: bytes, *, has_references: bool) -> None:
        self.data = data
        self.has_references = has_references


class PoolFull(Exception):
    """No block is free at present; the caller gives back what it took, waits and tries again."""


class Encoder:
    """Encodes messages of one process; arrays of the current job go to blocks tagged with it.

    Concurrency: one user at a time (client lock, worker main thread); `slot` and `generation`
    name the job whose blocks are being filled.
    """

    def __init__(self, blocks: BlockPool) -> None:
        self._blocks = blocks
        self.slot = 0
        self.generation = 0
        self.used_blocks = False
        self.wanted_bytes = 0  # of blocks, by the present job so far
        self.placed_bytes = 0  # in blocks, ever
        self._taken: list[tuple[int, int]] = []
        self.has_odd_text = False
        self.most_inline: float = INLINE_ARRAY_BYTES  # bytes of an array that travel inside the message
        self._encode = msgspec.msgpack.Encoder(enc_hook=self._hook).encode

    def encode(self, message: Any) -> bytes:
        """The message as bytes; its arrays go to blocks of the present job."""
        try:
            return self._encode(message)
        except UnicodeEncodeError:
            self.give_back()
            self.has_odd_text = True
            return self._encode(_with_odd_text(message))

    def begin(self, slot: int, generation: int) -> None:
        """Blocks are for this job from now on."""
        self.slot, self.generation = slot, generation
        self.used_blocks, self.wanted_bytes, self.has_odd_text = False, 0, False
        self._taken.clear()

    def give_back(self) -> None:
        """After PoolFull, when the job's slot stays as it is: what was taken is no use without the rest."""
        self._blocks.give_back(self._taken)
        self._taken.clear()

    def place_message(self, message: bytes) -> int:
        """Copy an oversize message into a block; its first unit."""
        unit = self._allocate(len(message))
        self._blocks.bytes_at(unit, len(message))[:] = message
        return unit

    def _allocate(self, nbytes: int) -> int:
        self.wanted_bytes += self._blocks.units_for(nbytes) * self._blocks.unit_bytes
        unit = self._blocks.allocate(nbytes, self.slot, self.generation)
        if unit is None:
            raise PoolFull
        self._taken.append((unit, nbytes))
        self.used_blocks = True
        self.placed_bytes += nbytes
        return unit

    def _hook(self, value: Any) -> Any:
        if is_array(value):
            return self._array(value)
        if is_scalar(value):
            return _plain(value)
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, Encoded):
            self.used_blocks |= value.has_references
            return msgspec.Raw(value.data)
        raise TypeError(f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot travel")

    def _array(self, array: NDArray[Any]) -> msgspec.msgpack.Ext:
        kind: type = type(array)
        description, nbytes = _description(kind, array.dtype, array.shape), array.nbytes
        if nbytes <= self.most_inline:
            head = bytes((description[0], array.ndim)) + description[1:]
            return msgspec.msgpack.Ext(_INLINE, head + array.tobytes())
        unit = self._shared_unit(array)
        if unit is None:
            unit = self._allocate(nbytes)
            self._blocks.copy_in(unit, array)
        return msgspec.msgpack.Ext(_REFERENCE, _REF.pack(unit, nbytes) + description)

    def _shared_unit(self, array: NDArray[Any]) -> int | None:
        """The block the array lies in already (`shmq.empty`), now tagged with this job."""
        unit = self._blocks.adopt(array, self.slot, self.generation)
        if unit is not None:
            self.used_blocks = True
            self._taken.append((unit, array.nbytes))
            self.placed_bytes += array.nbytes
        return unit


def _plain(scalar: np.generic) -> Any:
    """The numpy scalar as Python's own, where there is one: nanoseconds would become a bare number."""
    value = scalar.item()
    if is_scalar(value) or (scalar.dtype.kind in "mM" and isinstance(value, int)):
        raise TypeError(f"a scalar of dtype {scalar.dtype} has no like in Python; pass an array of it")
    return value


def payload_bytes(message: Any) -> int:
    """What arguments take, arrays included; 0 for what cannot travel (encoding it will explain that)."""
    beside = 0

    def count(value: Any) -> Any:
        nonlocal beside
        if is_array(value):
            beside += value.nbytes
            return None
        if is_scalar(value):
            return value.item()
        raise TypeError(type(value))

    try:
        return len(msgspec.msgpack.Encoder(enc_hook=count).encode(message)) + beside
    except ENCODING_ERRORS:
        return 0


class PartEncoder(Encoder):
    """Encodes parts of a result while the task goes on: it keeps account of their blocks, one by one.

    An array that lies in shared memory already is copied: the task may go on writing to it.
    """

    def __init__(self, blocks: BlockPool) -> None:
        super().__init__(blocks)
        self.placed: list[tuple[int, int]] = []

    def encode_part(self, value: Any) -> bytes:
        """The part; its blocks are in `placed`. Whatever is raised, no block is left behind.

        Raises:
            PoolFull: no block for an array of it at present.
        """
        self.placed = []
        self._taken.clear()
        self.used_blocks = False
        try:
            return self.encode(value)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """No part will name these blocks."""
        for unit, nbytes in self.placed:
            self._blocks.free(unit, nbytes)
        self.placed = []

    def _allocate(self, nbytes: int) -> int:
        unit = super()._allocate(nbytes)
        self.placed.append((unit, nbytes))
        return unit

    def _shared_unit(self, array: NDArray[Any]) -> int | None:  # noqa: ARG002 - the signature of every encoder
        return None


class Decoder:
    """Decodes messages of one process and remembers which blocks their arrays view."""

    def __init__(self, blocks: BlockPool) -> None:
        self._blocks = blocks
        self.views: list[tuple[weakref.ref[Any], int, int]] = []  # the bottom of the views of a block, unit, bytes
        self._viewed_bytes = 0  # blocks of `views`, not pinned yet
        self._untyped = self.typed(Any).decode

    def typed(self, kind: Any) -> msgspec.msgpack.Decoder[Any]:
        """A reusable decoder for a type."""
        return msgspec.msgpack.Decoder(kind, dec_hook=accept, ext_hook=self._extension)

    def decode(self, message: bytes) -> Any:
        """The message as plain values."""
        return self._untyped(message)

    def decode_as(self, decode: Callable[[bytes], Any], message: bytes) -> Any:
        """What a typed decoder's `decode` gives, also for a message that holds odd text."""
        try:
            return decode(message)
        except msgspec.ValidationError:
            kind = decode.__self__.type  # type: ignore[attr-defined]
            try:
                return msgspec.convert(self._untyped(message), kind, str_keys=False, dec_hook=accept)
            except DECODING_ERRORS:
                pass
            raise

    def _extension(self, code: int, data: memoryview) -> NDArray[Any] | str:
        try:
            if code == _REFERENCE:
                unit, nbytes = _REF.unpack_from(data)
                return self._view(unit, nbytes, *_type_and_shape(bytes(data[_REF.size :])))
            if code == _INLINE:
                at = 2 + data[0] + 8 * data[1]
                dtype, shape = _type_and_shape(bytes((data[0],)) + bytes(data[2:at]))
                import numpy as np

                return np.frombuffer(bytes(data[at:]), dtype).reshape(shape)
        except (IndexError, SyntaxError) as error:  # too short; or what numpy makes of a type's name
            raise ValueError(f"a damaged array: {error}") from error
        if code == _TEXT:
            return bytes(data).decode("utf-8", "surrogateescape")
        raise ValueError(f"ext code {code} is not one of shmq's: damaged record")

    def _view(self, unit: int, nbytes: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """An array that cannot be written to: of the block itself, or of a copy where no view may be kept."""
        import numpy as np

        flat = np.frombuffer(self._blocks.readable_bytes_at(unit, nbytes), dtype)
        block_bytes = self._blocks.units_for(nbytes) * self._blocks.unit_bytes
        if self._blocks.must_be_copied(unit, nbytes, self._viewed_bytes + block_bytes):
            flat = flat.copy()
            flat.flags.writeable = False
        else:
            self._viewed_bytes += block_bytes
            self.views.append((weakref.ref(flat.base), unit, nbytes))
        return flat if flat.shape == shape else flat.reshape(shape)

    def pin_living_views(self) -> None:
        """Pin the blocks whose views outlive the job. Caller must: not have freed or acked it yet."""
        for alive, unit, nbytes in self.views:
            bottom = alive()
            if bottom is not None:
                self._blocks.pin_while_alive(bottom, unit, nbytes)
        self.views.clear()
        self._viewed_bytes = 0


def _with_odd_text(value: Any) -> Any:
    """Plain containers with each text that UTF-8 does not hold as ext 3."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return msgspec.msgpack.Ext(_TEXT, value.encode("utf-8", "surrogateescape"))
    elif isinstance(value, list | tuple):
        return [_with_odd_text(item) for item in value]
    elif isinstance(value, dict):
        return {key: _with_odd_text(item) for key, item in value.items()}  # no key is an ext: none has a hash
    elif isinstance(value, PurePath):
        return _with_odd_text(str(value))
    return value


def accept(kind: type, value: Any) -> Any:
    """Custom annotations take the value that ext decoding made (ndarray and its generic forms), or text (paths)."""
    origin = kind if kind.__class__ is type else get_origin(kind) or kind
    if isinstance(value, str) and isinstance(origin, type) and issubclass(origin, PurePath):
        return origin(value)
    if isinstance(origin, type) and isinstance(value, origin):
        return value
    raise TypeError(f"expected {kind}, got {type(value).__name__}")


def explain(error: Exception, what: str) -> Exception:
    """The error of an encoder as one that tells the user what to do."""
    if isinstance(error, TooLarge):
        return TooLarge(f"{what}: {error}")
    if isinstance(error, RecursionError):
        return Unencodable(f"{what}: nested deeper than Python's recursion limit; flatten it")
    return Unencodable(
        f"{what}: {error}.\nmsgpack types, ndarray, datetime, UUID, Decimal, dataclasses, msgspec Structs, "
        "enums, sets, tuples and paths can travel; pass plain data or a path instead."
    )
