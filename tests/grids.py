"""Parameters of tests over several axes: by default the cells that a mistake could tell apart, with -m slow all others.

A mistake mostly shows by one value, or by two that meet. So the default keeps cells in which each two values of any two
axes meet, or, where only one of the axes matters much, each value occurs.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pytest


def thinned(*axes: Mapping[str, Any] | Sequence[Any], together: int = 2) -> list[Any]:
    """The product of the axes as parameters; cells that `together` values of as many axes do not need are slow.

    The values of a mapping are named by its keys, others by themselves.
    """
    named = [list(axis.items()) if isinstance(axis, Mapping) else [(str(one), one) for one in axis] for axis in axes]
    kept = covering([len(axis) for axis in named], together)
    found = []
    for cell in product(*(range(len(axis)) for axis in named)):
        names, values = zip(*(axis[place] for axis, place in zip(named, cell, strict=True)), strict=True)
        found.append(pytest.param(*values, id="-".join(names), marks=[] if cell in kept else pytest.mark.slow))
    return found


def covering(sizes: Sequence[int], together: int) -> set[tuple[int, ...]]:
    """Cells that hold all combinations of so many values: one by one those with most that are missing, used evenly."""
    cells = list(product(*map(range, sizes)))
    held = {cell: frozenset(combinations(enumerate(cell), together)) for cell in cells}
    missing, kept = set().union(*held.values()), set()
    used = {value: 0 for cell in cells for value in enumerate(cell)}
    while missing:
        best = max(cells, key=lambda cell: (len(held[cell] & missing), -sum(used[value] for value in enumerate(cell))))
        kept.add(best)
        missing -= held[best]
        for value in enumerate(best):
            used[value] += 1
    return kept
