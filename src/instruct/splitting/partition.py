"""Divides records into train, val and test."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from instruct.core.errors import DataError
from instruct.core.params import require
from instruct.core.records import Example
from instruct.formats.columns import Columns
from instruct.splitting.index import RecordIndex
from instruct.splitting.near_duplicates import DuplicatesParams, Links, find_duplicates, keep_forest
from instruct.splitting.placement import Move, Placer
from instruct.splitting.union_find import UnionFind

PARTS = ("train", "val", "test")
DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """The section `split` of params.yaml.

    `grouped` keeps near-duplicates in one part and never moves a record because others were appended; `positional`
    cuts the file in the book's order train, test, val; `shuffled` does so after a permutation drawn from `seed`.
    `stratify` keeps each kind of task near its share in every part of the grouped split. A record that is not valid
    stops the stage (`raise`), or is left out, counted and shown (`drop`).
    """

    data: str
    strategy: Literal["grouped", "positional", "shuffled"]
    train: float
    val: float
    test: float
    stratify: bool
    seed: int
    invalid: Literal["raise", "drop"]
    duplicates: DuplicatesParams
    columns: Columns

    def __post_init__(self) -> None:
        for part in PARTS:
            require(part, getattr(self, part), 0 < getattr(self, part) < 1, "a fraction between 0 and 1")
        total = self.train + self.val + self.test
        require("train + val + test", round(total, 9), math.isclose(total, 1, abs_tol=1e-9), "1")

    @property
    def fractions(self) -> dict[str, float]:
        """The share of each part."""
        return {part: getattr(self, part) for part in PARTS}


@dataclass(frozen=True, kw_only=True)
class Division:
    """Where each record went, by its number in the file.

    `parts` names the part or is "dropped"; `order` is the order in which records are written; `groups` holds the
    first record of each record's group, `similar` that of its near-duplicates alone, `same` that of its equals.
    `orphans` name a parent that is not in the file.
    """

    parts: list[str]
    order: Sequence[int]
    groups: list[int]
    similar: list[int]
    same: list[int]
    moved: list[Move]
    orphans: list[int]


def split_examples(examples: Sequence[Example], params: SplitParams) -> dict[str, list[Example]]:
    """The examples of each part, each with its group; raises DataError where a part would be empty."""
    index = RecordIndex(params.duplicates.on, params.seed)
    for example in examples:
        index.add(example)
    division = divide(index, params)
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    for i in division.order:
        if division.parts[i] != DROPPED:
            parts[division.parts[i]].append(replace(examples[i], group=index.ids[division.groups[i]]))
    return parts


def divide(index: RecordIndex, params: SplitParams) -> Division:
    """Find the groups of near-duplicates and relatives, and give each record a part.

    Raises DataError where a part would be empty.
    """
    found = find_duplicates(index.texts, params.duplicates.similarity, params.duplicates.method)
    relatives, orphans = index.relatives()
    links = keep_forest(len(index), [found.links, relatives])
    dropped = set(found.links[:, 1].tolist()) if params.duplicates.mode == "drop" else set()
    if params.strategy == "grouped":
        together = relatives if params.duplicates.mode == "report" else links
        parts, moved = place_groups(index, together, dropped, params)
        order: Sequence[int] = range(len(index))
    else:
        parts, order = cut_parts(len(index), dropped, params)
        moved = []
    groups = name_groups(len(index), links)
    _refuse_empty(parts, len(set(groups)) if params.strategy == "grouped" else None)
    return Division(
        parts=parts,
        order=order,
        groups=groups,
        similar=name_groups(len(index), found.links),
        same=found.same.tolist(),
        moved=moved,
        orphans=orphans,
    )


def name_groups(count: int, links: Links) -> list[int]:
    """The first record of each record's group."""
    sets = UnionFind(count)
    for earlier, later in links.tolist():
        sets.join(earlier, later)
    return [sets.find(record) for record in range(count)]


def place_groups(
    index: RecordIndex, links: Links, dropped: set[int], params: SplitParams
) -> tuple[list[str], list[Move]]:
    """The part of each record where linked ones stay together, and which records had to move for that."""
    placer = Placer(params.fractions, stratify=params.stratify)
    waiting = links[np.argsort(links[:, 1], kind="stable")].tolist()[::-1]
    for record in range(len(index)):
        joined = []
        while waiting and waiting[-1][1] == record:
            joined.append(waiting.pop()[0])
        placer.place(index.kinds[record], index.draws[record], joined, dropped=record in dropped)
    return [DROPPED if record in dropped else placer.part_of(record) for record in range(len(index))], placer.moved


def cut_parts(count: int, dropped: set[int], params: SplitParams) -> tuple[list[str], list[int]]:
    """The part of each record, and their order; train and test are rounded down and val takes the rest."""
    order = [record for record in range(count) if record not in dropped]
    if params.strategy == "shuffled":
        random.Random(params.seed).shuffle(order)
    # The tiny shift keeps 0.29 x 100 from falling to 28 in binary fractions.
    train = int(len(order) * params.train + 1e-9)
    test = int(len(order) * params.test + 1e-9)
    parts = [DROPPED] * count
    for place, record in enumerate(order):
        parts[record] = "train" if place < train else "test" if place < train + test else "val"
    return parts, order


def _refuse_empty(parts: Sequence[str], groups: int | None) -> None:
    counts = Counter(parts)
    if empty := [name for name in PARTS if not counts[name]]:
        kept = f"{len(parts) - counts[DROPPED]} records{f' in {groups} groups' if groups is not None else ''}"
        raise DataError(f"{kept} leave nothing for {' and '.join(empty)}; add records or change split's fractions")
