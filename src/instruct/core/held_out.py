"""Which held-out record another one resembles or contains: training on that one would spoil the measurement."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property

from rapidfuzz import fuzz, process

from instruct.core.records import Example
from instruct.core.words import UNSPACED, count_words

CONTAINED = 95.0  # of 100: how much of a held-out prompt must be in a new one
FEWEST_WORDS = 4  # of such a prompt; shorter ones are part of many others
FEWEST_LAST_WORDS = 2  # of its last part, mostly the input; a single word is in many other prompts
FEWEST_SHARED = 0.5  # of its words, before its texts are searched for

_END_MARKS = ".!?:\u3002\u061f\u06d4\u0964"  # the last four: Chinese and Japanese, Arabic, Urdu, Hindi
_ITEM = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+|[^\w\s]")  # words, and each mark
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_OPEN_EDGE = re.compile(rf"^ (?=[{UNSPACED}])|(?<=[{UNSPACED}]) $")


def normalise(text: str) -> str:
    """One form for texts that differ only in case, white space or Unicode's ways to write a character."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def prompt_of(one: Example) -> str:
    """A prompt as prompts are compared: all of the chat but the last answer."""
    return normalise("\n".join(_asked(one)))


def whole_of(one: Example) -> str:
    """A record as whole records are compared: its prompt and its answer."""
    return normalise("\n".join([*_asked(one), one.output]))


def _asked(one: Example) -> list[str]:
    return [one.system, *(text for turn in one.history for text in turn), one.instruction, one.input]


def without_system(one: Example) -> Example:
    """A record without its system prompt: a long one that records share would hide how their questions differ."""
    return replace(one, system="") if one.system else one


class HeldOut:
    """Held-out records, compared by `text_of` with rapidfuzz's ratio from 0 to 100, without their system prompts.

    The system prompts count only if both records have one and these differ: then the whole texts must be similar too.
    """

    def __init__(
        self, records: Iterable[Example], min_similarity: float, text_of: Callable[[Example], str] = prompt_of
    ) -> None:
        self._records = list(records)
        self._texts = [text_of(without_system(one)) for one in self._records]
        self._systems = [normalise(one.system) for one in self._records]
        self._wholes = [text_of(one) if one.system else "" for one in self._records]
        self._limit, self._text_of = min_similarity, text_of
        self._known: dict[str, tuple[Example, float] | None] = {}

    def find(self, one: Example) -> tuple[Example, float] | None:
        """The most similar held-out record and its similarity, or None if all are below the minimum."""
        whole = self._text_of(one)
        if whole not in self._known:
            self._known[whole] = self._most_similar(one, whole)
        return self._known[whole]

    def wrapped_in(self, one: Example, places: Iterable[int] | None = None) -> Example | None:
        """A held-out record whose prompt is nearly whole within another prompt, or None; the answers don't count.

        Only the records at `places` are looked for, if given. The prompt's texts may be apart and in any order.
        """
        whole, bare = prompt_of(without_system(one)), _parts_of(one)
        prompt, words, system = _parted(whole), set(_WORD.findall(whole)), normalise(one.system)
        for i in range(len(self._records)) if places is None else places:
            parts, known = self._parts[i]
            if (
                parts
                and len(known & words) >= FEWEST_SHARED * len(known)
                and (parts[-1] in bare or count_words(parts[-1]) >= FEWEST_LAST_WORDS)
                and all(_contains(prompt, part) for part in parts)
                and self._systems_agree(system, self._text_of(one), i)
            ):
                return self._records[i]
        return None

    @cached_property
    def _parts(self) -> list[tuple[list[str], set[str]]]:
        """The texts of each prompt and its words; none if the prompt is too short to be looked for."""
        prompts = [prompt_of(without_system(one)) for one in self._records]
        return [
            (_parts_of(one), set(_WORD.findall(prompt))) if count_words(prompt) >= FEWEST_WORDS else ([], set())
            for one, prompt in zip(self._records, prompts, strict=True)
        ]

    def _most_similar(self, one: Example, whole: str) -> tuple[Example, float] | None:
        text = self._text_of(without_system(one)) if one.system else whole
        near = process.extract(text, self._texts, scorer=fuzz.ratio, score_cutoff=self._limit, limit=None)
        system = normalise(one.system)
        found = ((i, score) for _, score, i in near if self._systems_agree(system, whole, i))  # the most similar first
        return next(((self._records[i], score) for i, score in found), None)

    def _systems_agree(self, system: str, whole: str, i: int) -> bool:
        """Whether a system prompt is missing or both are similar, or the records are similar together with them."""
        if not (system and self._systems[i]):
            return True
        return self._similar(system, self._systems[i]) or self._similar(whole, self._wholes[i])

    def _similar(self, one: str, other: str) -> bool:
        return fuzz.ratio(one, other, score_cutoff=self._limit) >= self._limit


def _parts_of(one: Example) -> list[str]:
    """The texts of a prompt without its system prompt; words may come between them."""
    return [part for part in map(without_end_marks, _asked(without_system(one))) if part]


def without_end_marks(text: str) -> str:
    """A normalised text without the marks at its end, which are a large part of a short one."""
    return normalise(text).rstrip(_END_MARKS)


def _contains(prompt: str, part: str) -> bool:
    """Whether a part is nearly whole in a prompt (`_parted`), and not within words of a script with blanks."""
    part = _OPEN_EDGE.sub("", _parted(part))
    return len(part) <= len(prompt) and fuzz.partial_ratio(part, prompt, score_cutoff=CONTAINED) >= CONTAINED


def _parted(text: str) -> str:
    """A text with one blank before and after each word and mark."""
    return f" {' '.join(_ITEM.findall(text))} "
