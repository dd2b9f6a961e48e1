"""Rejects new records that would spoil the measurement: near-duplicates of held-out ones, and repeated prompts."""

from collections.abc import Iterable

from rapidfuzz import fuzz, process

from instruct.augmentation.draft import Draft
from instruct.core.records import Example


class Guard:
    """Holds the prompts in use and the held-out records."""

    def __init__(self, train: Iterable[Example], held_out: Iterable[Example], max_similarity: float) -> None:
        self._taken = {_prompt(example) for example in train}
        self._held_out = list(held_out)
        self._prompts = [_prompt(example) for example in self._held_out]
        self._wholes = [_whole(example) for example in self._held_out]
        self._limit = max_similarity

    def refuse(self, draft: Draft) -> str:
        """Why a draft is rejected, in one word, or ""; remembers an accepted draft."""
        prompt = _prompt(draft)
        if not draft.replaces and prompt in self._taken:
            return "repeated"
        if self._resembles(prompt, self._prompts) or self._resembles(_whole(draft), self._wholes):
            return "leaked"
        self._taken.add(prompt)
        return ""

    def _resembles(self, text: str, others: list[str]) -> bool:
        return process.extractOne(text, others, scorer=fuzz.ratio, score_cutoff=self._limit) is not None


def _prompt(record: Draft | Example) -> str:
    return _plain(f"{record.instruction} {record.input}")


def _whole(record: Draft | Example) -> str:
    return _plain(f"{record.instruction} {record.input} {record.output}")


def _plain(text: str) -> str:
    """The text without differences in case and white space."""
    return " ".join(text.casefold().split())
