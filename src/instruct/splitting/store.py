"""All records of a data set on the disk, and in memory what the split must know of each."""

import json
from collections.abc import Iterator

from instruct.records import Example
from instruct.splitting.index import RecordIndex
from instruct.splitting.partition import Division
from instruct.splitting.text_file import TextFile


class RecordStore:
    """Records in a temporary file, with their index; so a data file is read once, whatever its size and format."""

    def __init__(self, on: str, seed: int) -> None:
        self.index = RecordIndex(on, seed, TextFile())
        self._records = TextFile()

    def add(self, example: Example) -> None:
        """Keep the next record."""
        self.index.add(example)
        self._records.append(json.dumps(list(vars(example).values())))

    def read_part(self, division: Division, part: str) -> Iterator[Example]:
        """The records of a part in their order, each with its group."""
        names = list(Example.__dataclass_fields__)
        for record in division.order:
            if division.parts[record] == part:
                values = dict(zip(names, json.loads(self._records[record]), strict=True))
                yield Example(**{**values, "group": self.index.ids[division.groups[record]]})
