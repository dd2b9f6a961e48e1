"""Runs the chosen methods over the train part and counts the outcome for every record."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from instruct.augmentation.draft import Outcome, Skipped, choose
from instruct.augmentation.guard import Guard
from instruct.augmentation.magpie import invent
from instruct.augmentation.rewriting import REWRITINGS, rewrite
from instruct.augmentation.rules import reword
from instruct.augmentation.settings import AugmentParams
from instruct.core.errors import ServerError
from instruct.core.records import Example
from instruct.servers.base import Ask

REASONS = ("leaked", "repeated", "unanswered", "unchanged", "unparsed", "unsuitable")


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """Train with the new records after the old ones, and the counts of each method's outcomes."""

    examples: list[Example]
    counts: dict[str, dict[str, int]]


def augment(train: Sequence[Example], held_out: Sequence[Example], params: AugmentParams, ask: Ask) -> Augmented:
    """Add the records that each method makes from train, except those that resemble a held-out record.

    Raises ServerError where a method's share of questions without a usable reply exceeds `max_failed`.
    """
    guard = Guard(train, held_out, params.max_similarity)
    taken = {example.id for example in [*train, *held_out]}
    added: list[Example] = []
    replaced: set[str] = set()
    counts: dict[str, dict[str, int]] = {}
    for method in params.methods:
        tally: Counter[str] = Counter()
        for outcome in _outcomes(method, train, params, ask):
            tally["asked"] += 1
            if isinstance(outcome, Skipped):
                tally[outcome.reason] += 1
                continue
            example = outcome.as_example(taken)
            reason = guard.refuse(example, replaces=outcome.replaces)
            tally[reason or "made"] += 1
            if not reason:
                added.append(example)
                taken.add(example.id)
                replaced |= {outcome.parent.id} if outcome.replaces and outcome.parent else set()
        counts[method] = {name: tally[name] for name in ("asked", "made", *REASONS)}
        _refuse_failures(method, counts[method], params.max_failed)
    return Augmented(examples=[e for e in train if e.id not in replaced] + added, counts=counts)


def _outcomes(method: str, train: Sequence[Example], params: AugmentParams, ask: Ask) -> list[Outcome]:
    if method == "magpie":
        return invent(params.magpie, ask, params.max_tokens, params.seed)
    parents = choose(train, params.parents, method, params.seed)
    if method == "rules":
        return [reword(example, params.seed) for example in parents]
    return rewrite(REWRITINGS[method], parents, ask, params.max_tokens, params.seed)


def _refuse_failures(method: str, counts: dict[str, int], most: float) -> None:
    failed = counts["unanswered"] + counts["unparsed"]
    questions = counts["asked"] - counts["unsuitable"]
    if failed > most * questions:
        raise ServerError(
            f"augment.{method}: {failed} of {questions} replies cannot be used ({counts['unanswered']} missing or cut "
            f"off, {counts['unparsed']} malformed); raise augment.max_tokens, use another model, or "
            "raise augment.max_failed"
        )
