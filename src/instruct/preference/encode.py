"""Pairs to token ids: one prompt, and the two answers with their end tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instruct.core.errors import DataError
from instruct.core.pairs import Pair, read_pairs
from instruct.core.records import group_lines
from instruct.preference.settings import Fit
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer
from instruct.training.encode import EncodedExample, cut, encode_example, misfit

PARTS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class EncodedPair:
    """The prompt with the chosen answer, and with the rejected one; only the last answer of a chat counts.

    `reference` are the log-probs of the two answers by the reference model, None before they are known.
    """

    id: str
    chosen: EncodedExample
    rejected: EncodedExample
    reference: tuple[float, float] | None = None

    @property
    def sides(self) -> tuple[EncodedExample, EncodedExample]:
        return self.chosen, self.rejected

    @property
    def token_count(self) -> int:
        """How many tokens both sides have together, the prompt counted twice."""
        return self.chosen.token_count + self.rejected.token_count

    @property
    def response_tokens(self) -> int:
        """How many tokens both answers have together, with their end tokens."""
        return self.chosen.response_tokens + self.rejected.response_tokens


@dataclass(frozen=True, kw_only=True)
class FittedPairs:
    """The pairs that can be used; how many of them were cut, and how many were left out for what reason."""

    pairs: Sequence[EncodedPair]
    truncated: int
    dropped: int
    identical: int


def encode_pair(pair: Pair, template: Template, tokenizer: Tokenizer, longest: int | None = None) -> EncodedPair:
    """Tokenise both sides, each answer as when it is generated.

    A chat of which a side has more than `longest` tokens loses its oldest turns on both sides, never the last.
    """
    for dropped in range(len(pair.turns)):
        chosen, rejected = (
            encode_example(replace(side, history=side.history[dropped:]), template, tokenizer, "last")
            for side in pair.sides
        )
        if longest is None or max(chosen.token_count, rejected.token_count) <= longest:
            break
    chosen, rejected = (replace(side, dropped_turns=dropped) for side in (chosen, rejected))
    return EncodedPair(id=pair.id, chosen=chosen, rejected=rejected)


def fit_pairs(
    pairs: Sequence[Pair], template: Template, tokenizer: Tokenizer, fit: Fit, *, room: int, path: Path
) -> FittedPairs:
    """The pairs of a file as training takes them, with at most `room` tokens, or `max_length` if that is less.

    A cut answer keeps its end token. Pairs whose answers are the same are left out. Raises DataError that begins with
    `path` where a pair does not fit, or no pair is left.
    """
    longest = min(fit.max_length, room)
    fitting: list[EncodedPair] = []
    problems: list[str] = []
    truncated = dropped = identical = 0
    for pair in pairs:
        one = encode_pair(pair, template, tokenizer, longest if fit.over_long == "truncate" else None)
        longer = max(one.sides, key=lambda side: side.token_count)
        if fit.over_long == "drop" and longer.token_count > longest:
            dropped += 1
            continue
        if problem := misfit(longer, longest, fit.over_long):
            problems.append(f"{path}: pair {pair.id}: {problem}")
            continue
        fitted = replace(one, chosen=cut(one.chosen, longest), rejected=cut(one.rejected, longest))
        if fitted.chosen.ids == fitted.rejected.ids:
            identical += 1
            continue
        truncated += fitted != one or one.chosen.dropped_turns > 0
        fitting.append(fitted)
    if problems:
        remedy = "raise prefer.max_length if the model has room, or set prefer.over_long to truncate or drop"
        raise DataError("\n".join([*group_lines(problems), f"{len(problems)} pairs are too long; {remedy}"]))
    if not fitting:
        raise DataError(f"{path}: {_nothing_left(len(pairs), dropped, longest)}")
    return FittedPairs(pairs=fitting, truncated=truncated, dropped=dropped, identical=identical)


def _nothing_left(pairs: int, dropped: int, longest: int) -> str:
    if not pairs:
        return "holds no pairs; give some by the section pairs of params.yaml and run `dvc repro pairs`"
    if dropped:
        return f"no pair fits into {longest} tokens; raise prefer.max_length if the model has room"
    return "the chosen answer equals the rejected one in every pair; there is nothing to learn, correct the pairs"


def fit_files(folder: Path, template: Template, tokenizer: Tokenizer, fit: Fit, room: int) -> dict[str, FittedPairs]:
    """The pairs of train and val that can be used; raises DataError where there are too few of them."""
    fitted = {}
    for part in PARTS:
        path = folder / f"{part}.json"
        found = fit_pairs(read_pairs(path), template, tokenizer, fit, room=room, path=path)
        doubled = [id_ for id_, count in Counter(pair.id for pair in found.pairs).items() if count > 1]
        if doubled:
            raise DataError(f"{path}: two pairs have the id {doubled[0]}; give each its own")
        if part == "train" and len(found.pairs) == 1:
            raise DataError(f"{path}: holds one pair that can be used, from which nothing general is learnt; give more")
        fitted[part] = found
    return fitted
