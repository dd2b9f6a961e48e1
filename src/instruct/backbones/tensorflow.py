"""Reads a TensorFlow checkpoint without TensorFlow: an index of names and places, and one data file.

The index is a LevelDB table: blocks of sorted keys with shared prefixes, some compressed with Snappy, each with a
checksum. Every number is checked against the file before it is used, and nothing is unpickled.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from instruct.backbones.crc import masked_crc32c
from instruct.core.errors import BackboneError

INDEX, DATA = ".index", ".data-00000-of-00001"
MAGIC = 0xDB4775248B80FB57
LARGEST_INDEX, LARGEST_BLOCK, MOST_DIMENSIONS = 1 << 26, 1 << 24, 8
_FLOAT = 1  # the data type
_RAW, _SNAPPY = 0, 1  # kinds of block
_FOOTER, _TRAILER = 48, 5
Value = int | bytes


@dataclass(frozen=True, kw_only=True)
class Variable:
    """Where the numbers of one variable are in the data file, all of float32."""

    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


class TensorFlowCheckpoint:
    """The variables of `PREFIX.index` and `PREFIX.data-00000-of-00001`; raises BackboneError if they are damaged."""

    def __init__(self, prefix: Path) -> None:
        self._index, self._data = (prefix.with_name(prefix.name + end) for end in (INDEX, DATA))
        try:
            if self._index.stat().st_size > LARGEST_INDEX:
                raise ValueError("it is too large for an index")
            self.variables = _variables(memoryview(self._index.read_bytes()))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BackboneError(f"{self._index}: not a complete TensorFlow index ({reason}); copy it again") from None
        try:
            with self._data.open("rb") as file:
                self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BackboneError(f"{self._data}: cannot be read ({reason}); copy it again") from None

    def content(self, name: str) -> memoryview:
        """The bytes of a variable's numbers, little-endian, checked."""
        variable = self.variables[name]
        content = self._bytes[variable.offset : variable.offset + variable.size]
        if len(content) != variable.size:
            raise BackboneError(f"{self._data}: ends before the variable {name} does; copy it again")
        if masked_crc32c(content) != variable.checksum:
            raise BackboneError(f"{self._data}: the variable {name} is damaged; copy it again")
        return content


def _variables(index: memoryview) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    if len(index) < _FOOTER or struct.unpack("<Q", index[-8:])[0] != MAGIC:
        raise ValueError("its end is missing")
    _, _, place = _handle(index[-_FOOTER:], 0)  # the index of metadata, which is empty
    offset, size, _ = _handle(index[-_FOOTER:], place)
    previous: bytes | None = None
    for _, handle in _entries(_block(index, offset, size)):
        offset, size, _ = _handle(memoryview(handle), 0)
        for key, value in _entries(_block(index, offset, size)):
            if previous is not None and key <= previous:
                raise ValueError("its names are not in order")
            previous = key
            if key == b"":
                _check_header(dict(_fields(value)))
            else:
                found[key.decode("utf-8")] = _variable(key.decode("utf-8"), value)
    return found


def _block(index: memoryview, offset: int, size: int) -> bytes:
    """The content of a block, checked and unpacked."""
    if offset + size + _TRAILER > len(index) - _FOOTER:
        raise ValueError("a block lies past its end")
    kind, checksum = struct.unpack("<BI", index[offset + size : offset + size + _TRAILER])
    if masked_crc32c(index[offset : offset + size + 1]) != checksum:
        raise ValueError("a block is damaged")
    content = bytes(index[offset : offset + size])
    if kind == _RAW:
        return content
    if kind != _SNAPPY:
        raise ValueError(f"a block has the unknown compression {kind}")
    length, _ = _number(content, 0)
    if length > LARGEST_BLOCK:
        raise ValueError(f"a block claims to unpack to {length} bytes")
    return pyarrow.Codec("snappy").decompress(content, decompressed_size=length).to_pybytes()


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; each key shares a prefix with the one before."""
    restarts = struct.unpack("<I", block[-4:])[0] if len(block) >= 4 else len(block)
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block is too short")
    place, key = 0, b""
    while place < end:
        shared, place = _number(block, place)
        own, place = _number(block, place)
        size, place = _number(block, place)
        if shared > len(key) or place + own + size > end:
            raise ValueError("a name lies past its block")
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + size]
        place += own + size


def _handle(content: memoryview, place: int) -> tuple[int, int, int]:
    """A block's place and size, and the position after them."""
    offset, place = _number(content, place)
    size, place = _number(content, place)
    return offset, size, place


def _number(content: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number stored with seven bits per byte, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("a number is cut off")
        byte, place = content[place], place + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number is too long")


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a protocol buffer: numbers, and bytes."""
    place = 0
    while place < len(message):
        tag, place = _number(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _number(message, place)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _number(message, place)
        if size is None or place + size > len(message):
            raise ValueError("an entry cannot be read")
        content, place = message[place : place + size], place + size
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, "little")


def _check_header(header: dict[int, Value]) -> None:
    if header.get(1, 0) != 1:
        raise ValueError(f"its numbers are in {header.get(1)!r} files, only one can be read")
    if header.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian")


def _variable(name: str, message: bytes) -> Variable:
    fields = dict(_fields(message))
    kind, shard, offset, size, checksum = (fields.get(number, 0) for number in (1, 3, 4, 5, 6))
    shape = _shape(fields.get(2, b""))
    if kind != _FLOAT:
        raise ValueError(f"the variable {name} is of type {kind!r}, only float32 can be read")
    if not (isinstance(offset, int) and isinstance(size, int) and isinstance(checksum, int)) or 7 in fields or shard:
        raise ValueError(f"the variable {name} is in parts")
    count = 4
    for length in shape:
        count *= length
    if count != size:
        raise ValueError(f"the variable {name} of shape {shape} has {size!r} bytes")
    return Variable(shape=shape, offset=offset, size=size, checksum=checksum)


def _shape(message: Value) -> tuple[int, ...]:
    if not isinstance(message, bytes):
        raise ValueError("a shape cannot be read")
    sizes = []
    for number, dimension in _fields(message):
        if number != 2 or not isinstance(dimension, bytes):
            raise ValueError("a shape is not known")
        size = dict(_fields(dimension)).get(1, 0)
        if not isinstance(size, int) or not 0 < size < 1 << 40:
            raise ValueError(f"a dimension is {size!r}")
        sizes.append(size)
    if len(sizes) > MOST_DIMENSIONS:
        raise ValueError(f"a variable has {len(sizes)} dimensions")
    return tuple(sizes)
