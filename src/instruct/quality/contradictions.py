"""Records with the same prompt and different answers."""

import re
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from instruct.core.records import Example

# Marks that do not change an answer; those between digits stay ("1.5" is not "15").
_MARKS = re.compile(r"[\"'“”‘’«»`!?;…]|[.,:](?!\d)")


class Contradictions:
    """Hashes of all prompts and answers; ignores blanks, case and an answer's punctuation."""

    def __init__(self) -> None:
        self._members: dict[int, list[int]] = {}  # numbers of records by the hash of their prompt
        self._answers, self.ids = array("Q"), list[str]()

    def add(self, example: Example) -> None:
        before = "".join(
            f"{_fold(text)}\x1e" for text in (example.system, *(t for turn in example.history for t in turn))
        )
        asked = f"{_fold(example.instruction)}\x1f{_fold(example.input)}"
        prompt = _hash(before + asked if before.strip("\x1e") else asked)
        self._members.setdefault(prompt, []).append(len(self.ids))
        self._answers.append(_hash(_fold(_MARKS.sub("", example.output))))
        self.ids.append(example.id)

    def groups(self) -> list[list[int]]:
        """For each prompt with more than one answer, the numbers of its records in the order they were added."""
        return [members for members in self._members.values() if self.answers_of(members) > 1]

    def answers_of(self, members: Sequence[int]) -> int:
        """How many different answers the records of a group have."""
        return len({self._answers[place] for place in members})


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _hash(text: str) -> int:
    """A 64-bit hash: among a million texts the chance of any collision is 1 in 37 million."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest())
