"""Rejects new records that would spoil the measurement: near-duplicates of held-out ones, and repeated prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rapidfuzz import fuzz, process

from instruct.augmentation.rewriting import PASSIVE_WISH
from instruct.core.held_out import HeldOut, normalise, prompt_of, whole_of, without_system
from instruct.core.records import Example

CONTAINED = 95.0  # of 100: how much of a held-out prompt must be in a new one
FEWEST_WORDS = 4  # of such a prompt; shorter ones are part of many others


class Guard:
    """Holds the prompts in use and the held-out records."""

    def __init__(self, train: Iterable[Example], held_out: Sequence[Example], max_similarity: float) -> None:
        self._taken = set(map(prompt_of, train))
        self._held_out = [HeldOut(held_out, max_similarity, text_of) for text_of in (prompt_of, whole_of)]
        long = [one for one in held_out if len(prompt_of(without_system(one)).split()) >= FEWEST_WORDS]
        self._parts, self._answers = [_parts_of(one) for one in long], [_bare(one.output) for one in long]
        self._limit = max_similarity

    def refuse(self, example: Example, *, replaces: bool) -> str:
        """Why a record is rejected, in one word, or ""; remembers the prompt of an accepted one."""
        prompt = prompt_of(example)
        if not replaces and prompt in self._taken:
            return "repeated"
        # The wish that we add ourselves would hide the question.
        asked = replace(example, instruction=example.instruction.removesuffix(PASSIVE_WISH).rstrip())
        if any(held_out.find(asked) for held_out in self._held_out) or self._wraps(asked):
            return "leaked"
        self._taken.add(prompt)
        return ""

    def _wraps(self, example: Example) -> bool:
        """Whether the prompt contains all parts of a held-out one nearly whole, and the answer is nearly the same."""
        prompt, answer = prompt_of(without_system(example)), _bare(example.output)
        near = process.extract(answer, self._answers, scorer=fuzz.ratio, score_cutoff=self._limit, limit=None)
        return any(all(_contains(prompt, part) for part in self._parts[i]) for _, _, i in near)


def _parts_of(one: Example) -> list[str]:
    """The texts of a prompt without its system prompt; words may come between them."""
    texts = [text for turn in one.history for text in turn] + [one.instruction, one.input]
    return [part for part in map(_bare, texts) if part]


def _bare(text: str) -> str:
    """A normalised text without the marks at its end, which are a large part of a short one."""
    return normalise(text).rstrip(".!?:")


def _contains(prompt: str, part: str) -> bool:
    return len(part) <= len(prompt) and fuzz.partial_ratio(part, prompt) >= CONTAINED
