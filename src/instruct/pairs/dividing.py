"""Pairs for training and pairs that are held out, so that no prompt is in both."""

from collections.abc import Sequence
from hashlib import sha256

from instruct.core.errors import DataError
from instruct.core.held_out import prompt_of
from instruct.core.pairs import Pair


def divide_pairs(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Train and val, in the order of the pairs; raises DataError where there is one prompt only.

    Whole groups of pairs are held out, in an order that depends on each group alone, until val has its share.
    """
    groups: dict[str, int] = {}
    for pair in pairs:
        groups[group_of(pair)] = groups.get(group_of(pair), 0) + 1
    if len(groups) < 2:
        raise DataError(
            f"{len(pairs)} pairs with one prompt: at least two prompts are needed, one to train on, one held out"
        )
    order = sorted(groups, key=lambda group: sha256(f"{seed}\x1f{group}".encode()).hexdigest())
    held: set[str] = set()
    count = 0
    for group in order[:-1]:
        if held and count >= round(share * len(pairs)):
            break
        held.add(group)
        count += groups[group]
    return [one for one in pairs if group_of(one) not in held], [one for one in pairs if group_of(one) in held]


def group_of(pair: Pair) -> str:
    """Pairs of one group stay together: near-duplicates by the split, else those with the same prompt."""
    return pair.group or prompt_of(pair)
