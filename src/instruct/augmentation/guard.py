"""Rejects new records that would spoil the measurement: near-duplicates of held-out ones, and repeated prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rapidfuzz import fuzz, process

from instruct.augmentation.rewriting import PASSIVE_WISH
from instruct.core.held_out import HeldOut, prompt_of, whole_of, without_end_marks, without_system
from instruct.core.records import Example


class Guard:
    """Holds the prompts in use and the held-out records."""

    def __init__(self, train: Iterable[Example], held_out: Sequence[Example], max_similarity: float) -> None:
        self._taken = set(map(prompt_of, train))
        self._prompts, self._wholes = (HeldOut(held_out, max_similarity, text_of) for text_of in (prompt_of, whole_of))
        self._answers = [without_end_marks(one.output) for one in held_out]
        self._limit = max_similarity

    def refuse(self, example: Example, *, replaces: bool) -> str:
        """Why a record is rejected, in one word, or ""; remembers the prompt of an accepted one."""
        prompt = prompt_of(example)
        if not replaces and prompt in self._taken:
            return "repeated"
        # The wish that we add ourselves would hide the question.
        asked = replace(example, instruction=example.instruction.removesuffix(PASSIVE_WISH).rstrip())
        if self._prompts.find(asked) or self._wholes.find(asked) or self._wraps(asked):
            return "leaked"
        self._taken.add(prompt)
        return ""

    def _wraps(self, example: Example) -> bool:
        """Whether the prompt contains a held-out one (system prompts apart), and the answer is nearly the same."""
        answer = without_end_marks(example.output)
        near = process.extract(answer, self._answers, scorer=fuzz.ratio, score_cutoff=self._limit, limit=None)
        return self._prompts.wrapped_in(without_system(example), [i for _, _, i in near]) is not None
