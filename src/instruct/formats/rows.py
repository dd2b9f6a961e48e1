"""A data file of any format as a stream of good and bad records."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from instruct.core.errors import DataError
from instruct.core.params import did_you_mean
from instruct.core.records import NOT_UTF8, BadRecord, Example, Ids, part_rows
from instruct.formats.columns import USUAL, Columns, Picked, pick_fields
from instruct.formats.parquet import read_parquet
from instruct.formats.source import COMPRESSIONS, Raw, open_text, refuse_windows_1252
from instruct.formats.text import read_csv, read_json, read_json_lines

Row = Example | BadRecord

_TEXT_FORMATS: dict[str, Callable[[Path, BinaryIO], Iterator[Raw]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": partial(read_csv, delimiter=","),
    ".tsv": partial(read_csv, delimiter="\t"),
}
LEFT_OUT = {
    "turns": "lost their later turns (split.columns.turns: first)",
    "system": "lost their system message (split.columns.system: ignore)",
    "columns": "lost the content of other columns (split.columns.others: ignore)",
}
_SEVERAL = 3  # records with bytes that are not UTF-8; from this number on the encoding of the file is looked at
_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Rows:
    """The records of a file; every iteration reads it from the start and holds one record at a time.

    It also keeps one number per record, to create ids and refuse duplicates. `left_out` counts the good records of
    which a part was left out, by `LEFT_OUT`; `checks` are those of good records by id. Raises DataError if the file
    as a whole cannot be read or contains no records.
    """

    path: Path
    columns: Columns = USUAL
    left_out: Counter[str] = field(default_factory=Counter)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        self.left_out.clear()
        self.checks.clear()
        ids = Ids()
        index, broken = -1, 0
        for index, (where, picked) in enumerate(picked_rows(self.path, self.columns)):
            if picked.hint and index == 0:  # so are the others, as a rule: one line says it for the file
                raise DataError(f"{self.path}: {picked.hint}")
            if any(NOT_UTF8 in problem for problem in picked.problems):
                broken += 1
                if broken == _SEVERAL and format_of(self.path) in _TEXT_FORMATS:
                    refuse_windows_1252(self.path)
            row = ids.row(index, where, picked.values, picked.problems)
            if isinstance(row, Example):
                self.left_out.update(picked.left_out)
                if picked.check:
                    self.checks[row.id] = picked.check
            yield row
        if index < 0:
            raise DataError(f"{self.path}: holds no records; add at least one")


def left_out_lines(rows: Rows) -> list[str]:
    """A line for each kind of content that good records lost."""
    return [
        f"{rows.path}: {rows.left_out[name]} records {what}" for name, what in LEFT_OUT.items() if rows.left_out[name]
    ]


def check_rows(path: Path, columns: Columns = USUAL) -> tuple[list[Example], dict[int, list[str]]]:
    """The good records of a data file, and for each bad one its index and its problems, ready to print."""
    return part_rows(Rows(path, columns))


def picked_rows(path: Path, columns: Columns) -> Iterator[tuple[str, Picked]]:
    """The place of each record and its fields as in the file, without a generated id."""
    table = format_of(path) in _TABLES
    for raw in raw_rows(path):
        if raw.problem:
            yield raw.where, Picked({}, (raw.problem,))
        else:
            yield raw.where, pick_fields(raw.value, columns, table=table)


def format_of(path: Path) -> str:
    """The ending that names the format, before that of a compression; raises DataError for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    known = [*_TEXT_FORMATS, ".parquet"]
    if suffix not in known:
        hint = did_you_mean(suffix, known) if suffix else f"; there are {', '.join(known)}"
        raise DataError(f"{path}: the name must end with its format{hint}, or these and {', '.join(COMPRESSIONS)}")
    return suffix


def raw_rows(path: Path) -> Iterator[Raw]:
    """The records of a file as it holds them."""
    suffix = format_of(path)
    if suffix == ".parquet":
        yield from read_parquet(path)
        return
    with open_text(path) as file:
        yield from _TEXT_FORMATS[suffix](path, file)
