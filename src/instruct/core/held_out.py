"""Which held-out record another one resembles: training on that one would spoil the measurement."""

import unicodedata
from collections.abc import Callable, Iterable

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


class HeldOut:
    """Held-out records, compared by `text_of` with rapidfuzz's ratio from 0 to 100."""

    def __init__(
        self, records: Iterable[Example], min_similarity: float, text_of: Callable[[Example], str] = prompt_of
    ) -> None:
        self._records = list(records)
        self._texts = [text_of(one) for one in self._records]
        self._limit, self._text_of = min_similarity, text_of
        self._known: dict[str, tuple[Example, float] | None] = {}

    def find(self, one: Example) -> tuple[Example, float] | None:
        """The most similar held-out record and its similarity, or None where all are below the minimum."""
        text = self._text_of(one)
        if text not in self._known:
            best = process.extractOne(text, self._texts, scorer=fuzz.ratio, score_cutoff=self._limit)
            self._known[text] = (self._records[best[2]], best[1]) if best else None
        return self._known[text]
