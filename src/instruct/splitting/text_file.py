"""A list of texts that lies on the disk."""

import mmap
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from typing import overload


class TextFile(Sequence[str]):
    """Texts in a temporary file that vanishes with this object; memory holds where each one ends.

    Read only after the last `append`: the file is then mapped, and the system keeps of it what memory allows.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="instruct-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])
        self._map: mmap.mmap | bytes | None = None

    def append(self, text: str) -> None:
        """Add one text at the end."""
        assert self._map is None, "texts are added before the first is read"
        self._ends.append(self._ends[-1] + self._file.write(text.encode("utf-8")))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._map is None:
            self._file.flush()
            # An empty file cannot be mapped.
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._ends[-1] else b""
        return self._map[self._ends[index] : self._ends[index + 1]].decode("utf-8")
