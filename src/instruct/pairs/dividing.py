"""Pairs for training and pairs that are held out, so that no prompt is in both."""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

from instruct.core.errors import DataError
from instruct.core.held_out import prompt_of
from instruct.core.pairs import Pair

Group = tuple[str, str]
"""A group of pairs: the column it is named after (`group` or `prompt`), and what one of its pairs has there."""


def divide_pairs(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Train and val, in the order of the pairs; raises DataError where there is one group only.

    Whole groups are held out, in an order that depends on each group alone, as long as val stays within its share. If
    each has more pairs than that, the smallest is held out.
    """
    groups = groups_of(pairs)
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise DataError(
            f'{len(pairs)} pairs, all joined by a prompt or a "group" that they share: none can be held out; add pairs '
            'with other prompts, or correct "group"'
        )
    order = sorted(sizes, key=lambda group: sha256(f"{seed}\x1f{group[1]}".encode()).hexdigest())
    room = max(1, round(share * len(pairs)))
    held = set[Group]()
    for group in order:
        if sizes[group] <= room:
            held.add(group)
            room -= sizes[group]
    held = held or {min(order, key=lambda group: sizes[group])}
    train, val = (
        [pair for pair, group in zip(pairs, groups, strict=True) if (group in held) == wanted]
        for wanted in (False, True)
    )
    return train, val


def groups_of(pairs: Sequence[Pair]) -> list[Group]:
    """The group of each pair: those with one prompt or one `group`, directly or through others, are together."""
    above: dict[Group, Group] = {}

    def top(group: Group) -> Group:
        above.setdefault(group, group)
        while above[group] != group:
            above[group] = above[above[group]]
            group = above[group]
        return group

    for pair in pairs:
        prompt = top(("prompt", prompt_of(pair)))
        group = top(("group", pair.group)) if pair.group else prompt
        above[max(group, prompt)] = min(group, prompt)
    return [top(("prompt", prompt_of(pair))) for pair in pairs]
