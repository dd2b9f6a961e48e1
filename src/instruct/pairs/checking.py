"""Which pairs are fit to train on: two different answers, each pair once, no prompt resembles or holds a test."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rapidfuzz import fuzz

from instruct.core.errors import DataError
from instruct.core.held_out import HeldOut, prompt_of
from instruct.core.pairs import Pair
from instruct.core.records import Example
from instruct.pairs.settings import PairsParams

REASONS = ("identical", "near_identical", "repeated", "leaked")
"""Why a pair is dropped: the same answers, nearly the same, the pair was there before, it resembles or holds a test."""
NONE: Mapping[str, int] = MappingProxyType({})
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The pairs that are left, how many were dropped for each of REASONS, and how many say the opposite of another."""

    pairs: list[Pair]
    dropped: dict[str, int]
    contradictory: int


def check_pairs(
    pairs: Iterable[Pair], held_out: Sequence[Example], params: PairsParams, without: Mapping[str, int] = NONE
) -> Checked:
    """Drop what cannot be learnt from; raises DataError where leaks are refused, or nothing is left.

    `without` counts the records that gave no pair, by reason; the error tells them too.
    """
    known = HeldOut(held_out, params.max_similarity)
    seen: set[tuple[str, str, str]] = set()
    kept: list[Pair] = []
    dropped = Counter(dict.fromkeys(REASONS, 0))
    found: list[str] = []
    for pair in pairs:
        reason = _fault(pair, params.max_alike)
        if not reason and _key(pair) in seen:
            reason = "repeated"
        if not reason and (leak := _leak(pair, known)):
            reason = "leaked"
            found.append(leak)
        dropped[reason] += bool(reason)
        if not reason:
            seen.add(_key(pair))
            kept.append(pair)
    if found and params.on_leak == "raise":
        more = f"; {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise DataError("\n".join(found[:_LISTED]) + f"{more}; remove them, or set pairs.on_leak: drop")
    if not kept:
        counts = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in {**without, **dropped}.items())
        raise DataError(f"no pair is left ({counts}); see section pairs of params.yaml")
    return Checked(
        pairs=kept, dropped={reason: dropped[reason] for reason in REASONS}, contradictory=_contradictions(seen)
    )


def _fault(pair: Pair, max_alike: float) -> str:
    # Case counts: upper case may be what is preferred.
    chosen, rejected = (" ".join(text.split()) for text in (pair.output, pair.rejected))
    if chosen == rejected:
        return "identical"
    return "near_identical" if fuzz.ratio(chosen, rejected) >= max_alike else ""


def _leak(pair: Pair, held_out: HeldOut) -> str:
    if found := held_out.find(pair):
        return f"pair {pair.id} resembles the held-out record {found[0].id}"
    record = held_out.wrapped_in(pair)
    return f"pair {pair.id} contains the prompt of the held-out record {record.id}" if record else ""


def _key(pair: Pair) -> tuple[str, str, str]:
    return prompt_of(pair), pair.output, pair.rejected


def _contradictions(keys: set[tuple[str, str, str]]) -> int:
    """How many pairs prefer an answer that another pair rejects for the same one."""
    return sum((prompt, worse, better) in keys for prompt, better, worse in keys)
