"""All records of a data set on the disk, and in memory what the split must know of each."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace

from instruct.core.records import Example
from instruct.splitting.index import RecordIndex
from instruct.splitting.partition import Division
from instruct.splitting.text_file import TextFile

_NAMES = [field.name for field in fields(Example)]


class RecordStore:
    """Records in a temporary file, with their index; so a data file is read once, whatever its size and format."""

    def __init__(self, on: str, seed: int) -> None:
        self.index = RecordIndex(on, seed, TextFile())
        self._records = TextFile()

    def add(self, example: Example) -> None:
        """Keep the next record."""
        self.index.add(example)
        self._records.append(json.dumps([getattr(example, name) for name in _NAMES]))

    def read(self, record: int) -> Example:
        """A record by its number."""
        return Example(**dict(zip(_NAMES, json.loads(self._records[record]), strict=True)))

    def read_part(self, division: Division, part: str) -> Iterator[Example]:
        """The records of a part in their order, each with its group."""
        for record in division.order:
            if division.parts[record] == part:
                yield replace(self.read(record), group=self.index.ids[division.groups[record]])
