"""Rejects new records that would spoil the measurement: near-duplicates of held-out ones, and repeated prompts."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rapidfuzz import fuzz, process

from instruct.augmentation.rewriting import PASSIVE_WISH
from instruct.core.held_out import HeldOut, normalise, prompt_of, whole_of, without_system
from instruct.core.records import Example
from instruct.core.words import UNSPACED, count_words

CONTAINED = 95.0  # of 100: how much of a held-out prompt must be in a new one
FEWEST_WORDS = 4  # of such a prompt; shorter ones are part of many others
FEWEST_LAST_WORDS = 2  # of its last part, mostly the input; a single word is in many other prompts

_END_MARKS = ".!?:\u3002\u061f\u06d4\u0964"  # the last four: Chinese and Japanese, Arabic, Urdu, Hindi
_ITEM = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+|[^\w\s]")  # words, and each mark
_OPEN_EDGE = re.compile(rf"^ (?=[{UNSPACED}])|(?<=[{UNSPACED}]) $")


class Guard:
    """Holds the prompts in use and the held-out records."""

    def __init__(self, train: Iterable[Example], held_out: Sequence[Example], max_similarity: float) -> None:
        self._taken = set(map(prompt_of, train))
        self._held_out = [HeldOut(held_out, max_similarity, text_of) for text_of in (prompt_of, whole_of)]
        long = [
            one
            for one in held_out
            if count_words(prompt_of(without_system(one))) >= FEWEST_WORDS and _parts_of(one)  # not marks alone
        ]
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
        prompt, last = _parted(prompt_of(without_system(example))), _parts_of(example)[-1:]
        near = process.extract(
            _bare(example.output), self._answers, scorer=fuzz.ratio, score_cutoff=self._limit, limit=None
        )
        return any(
            (self._parts[i][-1:] == last or count_words(self._parts[i][-1]) >= FEWEST_LAST_WORDS)
            and all(_contains(prompt, part) for part in self._parts[i])
            for _, _, i in near
        )


def _parts_of(one: Example) -> list[str]:
    """The texts of a prompt without its system prompt; words may come between them."""
    texts = [text for turn in one.history for text in turn] + [one.instruction, one.input]
    return [part for part in map(_bare, texts) if part]


def _bare(text: str) -> str:
    """A normalised text without the marks at its end, which are a large part of a short one."""
    return normalise(text).rstrip(_END_MARKS)


def _contains(prompt: str, part: str) -> bool:
    """Whether a part is nearly whole in a prompt (`_parted`), and not within words of a script with blanks."""
    part = _OPEN_EDGE.sub("", _parted(part))
    return len(part) <= len(prompt) and fuzz.partial_ratio(part, prompt) >= CONTAINED


def _parted(text: str) -> str:
    """A text with one blank before and after each word and mark."""
    return f" {' '.join(_ITEM.findall(text))} "
