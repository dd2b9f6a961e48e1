"""Parquet as a stream of raw records, a small batch of rows at a time."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, cast

from instruct.core.errors import DataError
from instruct.core.records import shown
from instruct.formats.source import COMPRESSIONS, Raw, open_plain

_ROWS = 256
_PAGE_BYTES = 1 << 18


def read_parquet(path: Path) -> Iterator[Raw]:
    """The rows of a Parquet file as dictionaries; a null cell is None.

    Raises DataError if the file is not Parquet or is damaged.
    """
    # Users of other formats should not wait for this import.
    import pyarrow
    from pyarrow import parquet

    # Without buffer_size and with pre_buffer, a whole row group is read at once: that may be the whole file.
    options = {"buffer_size": _PAGE_BYTES, "pre_buffer": False, "memory_map": False}
    number = 0
    with _seekable(path) as file:
        try:
            with parquet.ParquetFile(file, **options) as table:
                for batch in table.iter_batches(_ROWS, use_threads=False):
                    for row in _rows(batch):
                        yield Raw(f"{path}[{number}]", row)
                        number += 1
        except (pyarrow.ArrowException, OSError, ValueError, KeyError, NotImplementedError) as error:
            reason = shown((str(error).splitlines() or [type(error).__name__])[0])
            raise DataError(f"{path}: not a Parquet file that can be read ({reason}); write it again") from None


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """Parquet is read from its end, so a file that is compressed again is unpacked to disk first."""
    with open_plain(path) as file:
        if path.suffix.lower() not in COMPRESSIONS:
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            copyfileobj(file, unpacked)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)


def _rows(batch: Any) -> list[dict[str, Any]]:
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    return [{name: values[i] for name, values in columns.items()} for i in range(batch.num_rows)]


def _values(column: Any) -> list[Any]:
    try:
        return cast(list[Any], column.to_pylist())
    except UnicodeDecodeError:
        import pyarrow

        binary = column.cast(pyarrow.large_binary()).to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in binary]
