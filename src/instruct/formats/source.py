"""Opens a data file as plain bytes, with or without compression, and reports errors in plain words."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from instruct.core.errors import DataError
from instruct.core.files import readable

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
# UTF-32 first: its byte-order mark starts like that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# Bytes that are not UTF-8, as "surrogateescape" decodes them, and the other characters that are not ASCII.
_NOT_UTF8, _OTHERS = re.compile("[\udc80-\udcff]"), re.compile("[^\0-\x7f\udc80-\udcff]")


class Raw(NamedTuple):
    """One record of a file: its place, and its decoded value or the reason why it could not be decoded."""

    where: str
    value: Any
    problem: str = ""


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file; the name's last ending tells the compression.

    Raises DataError for a file that is missing, cut off or not compressed as its name says.
    """
    with readable(path), path.open("rb") as file:
        errors, plain = _decompressed(path, file)
        try:
            yield cast(BinaryIO, plain if plain is file else io.BufferedReader(plain, 1 << 18))
        except EOFError:
            raise DataError(f"{path}: the file looks cut off; copy or download it again") from None
        except errors as error:
            raise DataError(
                f"{path}: cannot be decompressed ({error}); check that its ending is right and the file is complete"
            ) from None


def _decompressed(path: Path, file: IO[bytes]) -> tuple[tuple[type[Exception], ...], Any]:
    match path.suffix.lower():
        case ".gz":
            return (gzip.BadGzipFile, zlib.error), gzip.GzipFile(fileobj=file)
        case ".bz2":
            return (OSError, ValueError), bz2.BZ2File(file)
        case ".xz":
            return (lzma.LZMAError,), lzma.LZMAFile(file)
        case ".zst":
            import pyarrow

            return (OSError, pyarrow.ArrowException), pyarrow.CompressedInputStream(file, "zstd")
        case _:
            return (), file


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a text file after its UTF-8 mark; raises DataError for the marks of other encodings."""
    with open_plain(path) as file:
        beginning = cast(io.BufferedReader, file).peek(4)[:4]
        for mark, name in _OTHER_MARKS.items():
            if beginning.startswith(mark):
                raise DataError(f"{path}: is {name}; save the file as UTF-8")
        if beginning.startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        yield file


def refuse_windows_1252(path: Path) -> None:
    """Raise DataError if a whole text file can be read as Windows-1252, and less of what is not ASCII as UTF-8.

    A few characters of Windows-1252 look like one of UTF-8, so that there is one does not make a file UTF-8.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    balance = 0
    with open_text(path) as file:
        while block := file.read(1 << 20):
            try:
                block.decode("cp1252")
            except UnicodeDecodeError:
                return
            text = utf8.decode(block)
            balance += len(_NOT_UTF8.findall(text)) - len(_OTHERS.findall(text))
    if balance > 0:
        raise DataError(f"{path}: looks like Windows-1252; save the file as UTF-8")
