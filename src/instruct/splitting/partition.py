"""Divides examples into train, val and test."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from instruct.errors import DataError
from instruct.formats.columns import Columns
from instruct.params import require
from instruct.records import Example

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """The section `split` of params.yaml.

    `positional` cuts the file in the book's order train, test, val; `shuffled` does so after a permutation drawn
    from `seed`. A record that is not valid stops the stage (`raise`), or is left out, counted and shown (`drop`).
    """

    data: str
    strategy: Literal["positional", "shuffled"]
    train: float
    val: float
    test: float
    seed: int
    invalid: Literal["raise", "drop"]
    columns: Columns

    def __post_init__(self) -> None:
        for part in PARTS:
            require(part, getattr(self, part), 0 < getattr(self, part) < 1, "a fraction between 0 and 1")
        total = self.train + self.val + self.test
        require("train + val + test", round(total, 9), math.isclose(total, 1, abs_tol=1e-9), "1")


def split_examples(examples: Sequence[Example], params: SplitParams) -> dict[str, list[Example]]:
    """The examples of each part; train and test are rounded down and val takes the rest, as in the book.

    Raises DataError where a part would be empty.
    """
    order = list(examples)
    if params.strategy == "shuffled":
        random.Random(params.seed).shuffle(order)
    # The tiny shift keeps 0.29 x 100 from falling to 28 in binary fractions.
    train = int(len(order) * params.train + 1e-9)
    test = int(len(order) * params.test + 1e-9)
    parts = {"train": order[:train], "test": order[train : train + test], "val": order[train + test :]}
    empty = [name for name in PARTS if not parts[name]]
    if empty:
        raise DataError(
            f"{len(order)} records leave nothing for {' and '.join(empty)}; add records or change split's fractions"
        )
    return parts
