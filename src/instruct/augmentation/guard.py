"""Rejects new records that would spoil the measurement: near-duplicates of held-out ones, and repeated prompts."""

from collections.abc import Iterable, Sequence

from instruct.core.held_out import HeldOut, prompt_of, whole_of
from instruct.core.records import Example


class Guard:
    """Holds the prompts in use and the held-out records."""

    def __init__(self, train: Iterable[Example], held_out: Sequence[Example], max_similarity: float) -> None:
        self._taken = set(map(prompt_of, train))
        self._held_out = [HeldOut(held_out, max_similarity, text_of) for text_of in (prompt_of, whole_of)]

    def refuse(self, example: Example, *, replaces: bool) -> str:
        """Why a record is rejected, in one word, or ""; remembers the prompt of an accepted one."""
        prompt = prompt_of(example)
        if not replaces and prompt in self._taken:
            return "repeated"
        if any(held_out.find(example) for held_out in self._held_out):
            return "leaked"
        self._taken.add(prompt)
        return ""
