"""The header of a GGUF file: its fields, and where each tensor is; every number is checked before it is used.

The package `gguf` has a reader too, but it trusts the file: an array of 2^40 items fills the memory, and an offset of
2^64 - 32 turns the header into weights. This reader never reads beyond the file, and tensors never overlap.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from instruct.core.errors import BackboneError

MOST_ITEMS = 4_000_000  # of an array: some ten times the longest vocabulary
MOST_FIELDS = MOST_TENSORS = 100_000
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_WHOLE_NUMBERS = {"I8", "I16", "I32", "I64"}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a file; `shape` is that of the weights, slowest dimension first."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size: int


class GGUFHeader:
    """Fields and tensors of one file; raises BackboneError for a file that is cut off, damaged or malicious."""

    def __init__(self, path: Path) -> None:
        self.path, self._place = path, 0
        self.fields: dict[str, Any] = {}
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.tensors = self._read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BackboneError(f"{path}: not a whole GGUF file ({reason}); fetch it again") from None

    def content(self, tensor: StoredTensor) -> np.ndarray:
        """The stored bytes of a tensor as `gguf.dequantize` takes them."""
        values = np.frombuffer(self._bytes, np.uint8, tensor.size, tensor.start)
        return values.reshape(gguf.quant_shape_to_byte_shape(tensor.shape, tensor.kind))

    def _read(self) -> list[StoredTensor]:
        magic, version, tensors, fields = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("it does not begin as one of version 2 or 3 does")
        if tensors > MOST_TENSORS or fields > MOST_FIELDS:
            raise ValueError(f"it claims {tensors} tensors and {fields} fields")
        for _ in range(fields):
            name = self._text()
            if name in self.fields:
                raise ValueError(f"the field {name} appears twice")
            self.fields[name] = self._value(*self._unpack("I"))
        entries = [self._entry() for _ in range(tensors)]
        return self._placed(entries)

    def _unpack(self, form: str) -> tuple[Any, ...]:
        """The next values, little-endian."""
        size = struct.calcsize(f"<{form}")
        self._place += size
        if self._place > len(self._bytes):
            raise ValueError("it ends early")
        return struct.unpack_from(f"<{form}", self._bytes, self._place - size)

    def _text(self) -> str:
        (length,) = self._unpack("Q")
        if length > len(self._bytes) - self._place:
            raise ValueError("it ends early")
        self._place += length
        return self._bytes[self._place - length : self._place].decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(*self._unpack("IQ"))
        if kind not in _FORMATS:
            raise ValueError(f"a field is of the unknown type {kind}")
        return self._unpack(_FORMATS[kind])[0]

    def _array(self, kind: int, length: int) -> list[Any]:
        if length > MOST_ITEMS or (kind != _STRING and kind not in _FORMATS):
            raise ValueError(f"a field is an array of {length} items of type {kind}")
        if kind == _STRING:
            return [self._text() for _ in range(length)]
        return list(self._unpack(f"{length}{_FORMATS[kind]}"))

    def _entry(self) -> tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]:
        name = self._text()
        (dimensions,) = self._unpack("I")
        if not 1 <= dimensions <= 4:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        shape = self._unpack(f"{dimensions}Q")[::-1]
        kind, offset = self._unpack("IQ")
        return name, shape, gguf.GGMLQuantizationType(kind), offset

    def _placed(self, entries: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]]) -> list[StoredTensor]:
        """The place of each tensor; tensors follow each other, and all are inside the file."""
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment}")
        start = -(-self._place // alignment) * alignment
        tensors = [
            StoredTensor(name=name, shape=shape, kind=kind, start=start + offset, size=_size(name, shape, kind))
            for name, shape, kind, offset in entries
        ]
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ValueError("two tensors have one name")
        end = start
        for tensor in sorted(tensors, key=lambda tensor: tensor.start):
            if tensor.start < end or tensor.start % alignment or tensor.start + tensor.size > len(self._bytes):
                raise ValueError(f"the tensor {tensor.name} is not where a tensor can be")
            end = tensor.start + tensor.size
        return tensors


def _size(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
    """The bytes of a tensor."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind.name in _WHOLE_NUMBERS:
        raise ValueError(f"the tensor {name} holds whole numbers")
    if min(shape) < 1 or shape[-1] % per_block:
        raise ValueError(f"the tensor {name} has the shape {shape}")
    count = 1
    for length in shape:
        count *= length
    return count // per_block * size
