"""Which held-out record another one resembles: training on that one would spoil the measurement."""

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace

from rapidfuzz import fuzz, process

from instruct.core.records import Example


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
