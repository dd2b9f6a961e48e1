"""Records with the same prompt and different answers, in 36 bytes per record."""

import re
from array import array
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from instruct.core.records import Example

# Marks that do not change an answer; those between digits stay ("1.5" is not "15").
_MARKS = re.compile(r"[\"'“”‘’«»`!?;…]|[.,:](?!\d)")


class Contradictions:
    """Hashes of all prompts and answers; ignores blanks, case and an answer's punctuation."""

    def __init__(self) -> None:
        self._prompts, self._answers = array("Q"), array("Q")
        self._ids = bytearray()
        self._ends = array("Q")

    def add(self, example: Example) -> None:
        """Add one record."""
        before = "".join(
            f"{_fold(text)}\x1e" for text in (example.system, *(t for turn in example.history for t in turn))
        )
        asked = f"{_fold(example.instruction)}\x1f{_fold(example.input)}"
        self._prompts.append(_hash(before + asked if before.strip("\x1e") else asked))
        self._answers.append(_hash(_fold(_MARKS.sub("", example.output))))
        self._ids += example.id.encode("utf-8")
        self._ends.append(len(self._ids))

    def groups(self) -> list[np.ndarray]:
        """For each prompt with more than one answer, the numbers of its records in the order they were added."""
        if not self._prompts:
            return []
        prompts = np.frombuffer(self._prompts, dtype=np.uint64)
        answers = np.frombuffer(self._answers, dtype=np.uint64)
        order = np.argsort(prompts, kind="stable")
        borders = np.flatnonzero(np.diff(prompts[order])) + 1
        found = []
        for start, end in _runs(borders, len(order)):
            members = order[start:end]
            if len(np.unique(answers[members])) > 1:
                found.append(members)
        return sorted(found, key=lambda members: int(members[0]))

    def id_of(self, place: int) -> str:
        """The id of the record that was added as number `place`."""
        start = self._ends[place - 1] if place else 0
        return self._ids[start : self._ends[place]].decode("utf-8")

    def answers_of(self, members: np.ndarray) -> int:
        """How many different answers the records of a group have."""
        return len({self._answers[place] for place in members.tolist()})


def _runs(borders: np.ndarray, total: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of two or more equal prompts."""
    starts = np.concatenate(([0], borders))
    ends = np.concatenate((borders, [total]))
    several = ends - starts > 1
    return zip(starts[several].tolist(), ends[several].tolist(), strict=True)


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _hash(text: str) -> int:
    """A 64-bit hash: among a million texts the chance of any collision is 1 in 37 million."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest())
