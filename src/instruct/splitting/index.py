"""What the split remembers of each record, so that the records themselves need not be in memory."""

import sys
from array import array

import numpy as np

from instruct.core.records import Example
from instruct.splitting.near_duplicates import Links, compared_text
from instruct.splitting.placement import draw
from instruct.splitting.text_file import TextFile


class RecordIndex:
    """Of each record, in the order of the file: id, kind, draw, relatives, and the text it is compared by.

    The draw is made from the prompt, so that equal prompts draw alike whatever their answers are.
    """

    def __init__(self, on: str, seed: int, texts: list[str] | TextFile | None = None) -> None:
        self._on = on
        self._seed = seed
        self.texts: list[str] | TextFile = [] if texts is None else texts
        self.ids: list[str] = []
        self.kinds: list[str] = []
        self.draws = array("d")
        self._parents: dict[int, str] = {}
        self._given: dict[int, str] = {}

    def add(self, example: Example) -> None:
        """Remember the next record."""
        number = len(self.ids)
        self.ids.append(example.id)
        self.kinds.append(sys.intern(example.kind))
        self.draws.append(draw(compared_text(example, "prompt"), self._seed))
        self.texts.append(compared_text(example, self._on))
        if example.parent:
            self._parents[number] = example.parent
        if example.group:
            self._given[number] = example.group

    def __len__(self) -> int:
        return len(self.ids)

    def relatives(self) -> tuple[Links, list[int]]:
        """Links from records to their parents and within groups that the file gives; and who misses a parent."""
        numbers = {id_: i for i, id_ in enumerate(self.ids)} if self._parents else {}
        links = [(numbers[parent], child) for child, parent in self._parents.items() if parent in numbers]
        orphans = [child for child, parent in self._parents.items() if parent not in numbers]
        first: dict[str, int] = {}
        links += [(first.setdefault(group, member), member) for member, group in self._given.items()]
        found = [sorted(link) for link in links if link[0] != link[1]]
        return np.array(found, np.int64).reshape(-1, 2), orphans
