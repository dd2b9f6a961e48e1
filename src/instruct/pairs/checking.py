"""Which pairs are fit to train on: two different answers, each pair once, no prompt that resembles a held-out one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from instruct.core.errors import DataError
from instruct.core.pairs import Pair
from instruct.core.records import Example
from instruct.pairs.settings import PairsParams

REASONS = ("identical", "near_identical", "repeated", "leaked")
"""Why a pair is dropped: both answers are the same, nearly the same, the pair was there before, it resembles a test."""
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The pairs that are left, how many were dropped for each of REASONS, and how many say the opposite of another."""

    pairs: list[Pair]
    dropped: dict[str, int]
    contradictory: int


def check_pairs(pairs: Iterable[Pair], held_out: Sequence[Example], params: PairsParams) -> Checked:
    """Drop what cannot be learnt from; raises DataError where leaks are refused, or nothing is left."""
    leaks = Leaks(held_out, params.max_similarity)
    seen: set[tuple[str, str, str]] = set()
    kept: list[Pair] = []
    dropped = Counter(dict.fromkeys(REASONS, 0))
    found: list[str] = []
    for pair in pairs:
        reason, record = _fault(pair, params.max_alike), ""
        if not reason and _key(pair) in seen:
            reason = "repeated"
        if not reason and (record := leaks.find(pair)):
            reason = "leaked"
            found.append(f"pair {pair.id} resembles the held-out record {record}")
        dropped[reason] += bool(reason)
        if not reason:
            seen.add(_key(pair))
            kept.append(pair)
    if found and params.on_leak == "raise":
        more = f"; {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise DataError("\n".join(found[:_LISTED]) + f"{more}; remove them, or set pairs.on_leak: drop")
    if not kept:
        counts = ", ".join(f"{dropped[one]} {one.replace('_', ' ')}" for one in REASONS)
        raise DataError(f"no pair is left ({counts}); see section pairs of params.yaml")
    return Checked(
        pairs=kept, dropped={reason: dropped[reason] for reason in REASONS}, contradictory=_contradictions(seen)
    )


class Leaks:
    """Finds the held-out record that a prompt resembles."""

    def __init__(self, held_out: Sequence[Example], max_similarity: float) -> None:
        self._ids = [one.id for one in held_out]
        self._prompts = [prompt_of(one) for one in held_out]
        self._limit = max_similarity
        self._known: dict[str, str] = {}

    def find(self, pair: Pair) -> str:
        """The id of the most similar held-out record at the limit or above, or ""."""
        prompt = prompt_of(pair)
        if prompt not in self._known:
            best = process.extractOne(prompt, self._prompts, scorer=fuzz.ratio, score_cutoff=self._limit)
            self._known[prompt] = self._ids[best[2]] if best else ""
        return self._known[prompt]


def prompt_of(one: Example) -> str:
    """A prompt as prompts are compared: all of the chat but the answer, without case and white space."""
    said = [text for turn in one.history for text in turn]
    return _plain("\n".join([one.system, *said, one.instruction, one.input]))


def _fault(pair: Pair, max_alike: float) -> str:
    # Case counts: upper case may be what is preferred.
    chosen, rejected = (" ".join(text.split()) for text in (pair.output, pair.rejected))
    if chosen == rejected:
        return "identical"
    return "near_identical" if fuzz.ratio(chosen, rejected) >= max_alike else ""


def _key(pair: Pair) -> tuple[str, str, str]:
    return prompt_of(pair), pair.output, pair.rejected


def _contradictions(keys: set[tuple[str, str, str]]) -> int:
    """How many pairs prefer an answer that another pair rejects for the same one."""
    return sum((prompt, worse, better) in keys for prompt, better, worse in keys)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
