"""The three text formats as streams of raw records."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from instruct.core.errors import DataError
from instruct.core.json_stream import MAX_RECORD, parse_json, stream_list
from instruct.core.records import element_place, shown
from instruct.formats.source import Raw, refuse_windows_1252


def read_json(path: Path, file: BinaryIO) -> Iterator[Raw]:
    """The elements of a JSON list, or JSON Lines, which many programs write under this name too.

    The first value decides: an object that is complete on its line starts JSON Lines.
    """
    begun = _first_character(file)
    if begun.endswith(b"{"):
        line = begun.lstrip() + file.readline(MAX_RECORD)
        if _is_whole(line):
            yield from read_json_lines(path, file, line, begun.count(b"\n") + 1)
            return
        begun = begun[:-1] + line
    for number, line_number, value in stream_list(cast(BinaryIO, _Rejoined(begun, file)), path):
        yield Raw(element_place(path, number, line_number), value)


def _first_character(file: BinaryIO) -> bytes:
    """The bytes up to and including the first character that is not white space."""
    begun = bytearray()
    while (byte := file.read(1)) and byte.isspace():
        begun += byte
    return bytes(begun) + byte


def _is_whole(line: bytes) -> bool:
    try:
        parse_json(line.decode("utf-8", "surrogateescape").strip())
    except ValueError:
        return False
    return True


class _Rejoined:
    """A stream of the bytes that were already read, then the rest of the file."""

    def __init__(self, begun: bytes, rest: BinaryIO) -> None:
        self._begun, self._rest = begun, rest

    def read(self, size: int) -> bytes:
        begun, self._begun = self._begun, b""
        return begun or self._rest.read(size)


def read_json_lines(path: Path, file: BinaryIO, first: bytes = b"", number: int = 0) -> Iterator[Raw]:
    """One record per line; skips blank lines. `first` is line `number`, if it was already read."""
    lines = chain([(number, first)] if first else [], _lines(file, number))
    begun = False
    for number, line in lines:
        where = f"{path}:{number}"
        if line is None:
            yield Raw(where, None, f"a line of more than {MAX_RECORD:,} bytes; is a line break missing?")
        elif text := line.decode("utf-8", "surrogateescape").strip(" \t\r\n"):
            try:
                value, problem = parse_json(text), ""
            except ValueError as error:
                value, problem = None, f"{error}; correct this line"
            if not begun and _is_list_of_records(text, value):
                raise DataError(f"{path}: is a JSON list and not JSON Lines; {_renamed(path)}")
            begun = True
            yield Raw(where, value, problem)


def _is_list_of_records(text: str, value: Any) -> bool:
    """Whether the first line is really a JSON list of records, or the start of one."""
    return text.startswith("[") and (
        value is None or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
    )


def _renamed(path: Path) -> str:
    name = re.sub(r"\.(jsonl|ndjson)(?=\.|$)", ".json", path.name, flags=re.I)
    return f"rename it to {shown(name)}"


def _lines(file: BinaryIO, number: int) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, after `number`; None for a line that is too long."""
    while line := file.readline(MAX_RECORD + 1):
        number += 1
        if len(line) <= MAX_RECORD or line.endswith(b"\n"):
            yield number, line
            continue
        while rest := file.readline(1 << 20):
            if rest.endswith(b"\n"):
                break
        yield number, None


def read_csv(path: Path, file: BinaryIO, delimiter: str) -> Iterator[Raw]:
    """One record per row with the header's names; an empty cell is "".

    Raises DataError for broken quotes, because the rows after them cannot be told apart.
    """
    # csv has only this limit, for the whole process; it bounds the memory that an unclosed quote can take.
    csv.field_size_limit(MAX_RECORD)
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(_short_lines(path, text), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            where, begins = f"{path}:{begins}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _header(path, cells)
            elif len(cells) != len(header):
                yield Raw(where, None, f"has {len(cells)} cells, and the header has {len(header)}; correct its quotes")
            else:
                yield Raw(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        reason = f"a broken row ({shown(str(error))}) hides where later rows start; correct its quotes"
        raise DataError(f"{path}:{begins}: {reason}") from None
    finally:
        text.detach()


def _header(path: Path, cells: list[str]) -> list[str]:
    """The names of the columns without the blanks around them.

    Raises DataError if one appears twice, or is in Windows-1252.
    """
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):  # bytes that are not UTF-8
        refuse_windows_1252(path)
    cells = [cell.strip() for cell in cells]
    twice = [name for name in cells if cells.count(name) > 1]
    if twice:
        raise DataError(f'{path}:1: the column "{shown(twice[0])}" appears twice in the header; rename one')
    if len(cells) == 1 and any(mark in cells[0] for mark in ";\t,|"):
        raise DataError(f'{path}:1: the header is one column, "{shown(cells[0])}"; a .csv needs commas, a .tsv tabs')
    return cells


def _short_lines(path: Path, text: IO[str]) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_RECORD + 1):
        number += 1
        if len(line) > MAX_RECORD and not line.endswith("\n"):
            raise DataError(f"{path}:{number}: a line of more than {MAX_RECORD:,} characters; is this a CSV file?")
        yield line
