"""CRC-32C (Castagnoli) of files of gigabytes: many stripes in parallel in numpy, combined at the end."""

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78
_STRIPES, _SHORT = 4096, 1 << 16


@cache
def _table() -> np.ndarray:
    """The table for a register's lowest byte."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(_POLYNOMIAL), values >> 1).astype(np.uint32)
    return values


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as LevelDB and TensorFlow store it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of any number of bytes."""
    view = np.frombuffer(data, dtype=np.uint8)
    width = len(view) // _STRIPES if len(view) > _SHORT else 0
    register = 0xFFFFFFFF
    if width:
        skip = _zeros(width)
        for stripe in _registers(view[: _STRIPES * width].reshape(_STRIPES, width)).tolist():
            register = _apply(skip, register) ^ stripe
    table = _table().tolist()
    for byte in view[_STRIPES * width :].tolist():
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _registers(stripes: np.ndarray) -> np.ndarray:
    """(stripes, width) bytes → the register of each stripe, starting from zero."""
    table, registers = _table(), np.zeros(len(stripes), dtype=np.uint32)
    for column in range(stripes.shape[1]):
        registers = table[(registers ^ stripes[:, column]) & 0xFF] ^ (registers >> 8)
    return registers


def _zeros(count: int) -> list[int]:
    """The effect of `count` zero bytes on each bit of a register; a register is the sum of its bits."""
    table = _table().tolist()
    step = [table[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32)]
    result = [1 << bit for bit in range(32)]
    while count:
        if count & 1:
            result = [_apply(step, column) for column in result]
        step = [_apply(step, column) for column in step]
        count >>= 1
    return result


def _apply(matrix: list[int], register: int) -> int:
    total = 0
    for column in matrix:
        if register & 1:
            total ^= column
        register >>= 1
    return total
