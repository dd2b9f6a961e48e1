"""Splits records into train, val and test."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from instruct.core.errors import DataError
from instruct.core.params import require
from instruct.core.records import Example
from instruct.formats.columns import Columns
from instruct.splitting.links import find_relatives, link_turns
from instruct.splitting.near_duplicates import (
    DuplicatesParams,
    Links,
    compared_text,
    find_duplicates,
    first_links,
    keep_forest,
    name_groups,
)
from instruct.splitting.placement import Move, Placer, draw

PARTS = ("train", "val", "test")
DROPPED = "dropped"
FEWEST = 50  # records; in a smaller file a few moves already make a part uneven, which is only a warning
FAR = 0.02  # a part misses its fraction by more than two points: that is said


@dataclass(frozen=True, kw_only=True)
class SplitParams:
    """The section `split` of params.yaml.

    `grouped` keeps near-duplicates in one part and never moves a record because others were appended; `positional`
    cuts the file in the book's order train, test, val; `shuffled` does the same after a permutation drawn from `seed`.
    `stratify` keeps each kind of task near its share in every part of the grouped split. An invalid record stops the
    stage (`raise`), or is left out, counted and listed (`drop`).
    """

    data: str
    checks: str
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
        require("data", "empty", bool(self.data.strip()), "the path of your data file")
        require("checks", "empty", bool(self.checks), "a file; {} alone is a file without checks")
        for part in PARTS:
            require(part, getattr(self, part), 0 < getattr(self, part) < 1, "a fraction between 0 and 1")
        total = self.train + self.val + self.test
        require("train + val + test", round(total, 9), math.isclose(total, 1, abs_tol=1e-9), "1")

    @property
    def fractions(self) -> dict[str, float]:
        return {part: getattr(self, part) for part in PARTS}


@dataclass(frozen=True, kw_only=True)
class Division:
    """The part of each record, by its index in the file.

    `parts` names the part or is "dropped"; `order` is the order in which records are written; `groups` holds the
    first record of each record's group, `joined` that of those joined by near-duplicates and turns that chats share,
    `similar` that of its near-duplicates alone, `same` that of its equals. `orphans` are records whose parent is not
    in the file.
    """

    parts: list[str]
    order: Sequence[int]
    groups: list[int]
    joined: list[int]
    similar: list[int]
    same: list[int]
    moved: list[Move]
    orphans: list[int]

    @property
    def pulled(self) -> set[int]:
        """The records that moved because their group joined another."""
        return {move.record for move in self.moved}


def take_parts(examples: Sequence[Example], division: Division) -> dict[str, list[Example]]:
    """The examples of each part in order, each with its group."""
    parts: dict[str, list[Example]] = {part: [] for part in PARTS}
    for i in division.order:
        if division.parts[i] != DROPPED:
            parts[division.parts[i]].append(replace(examples[i], group=examples[division.groups[i]].id))
    return parts


def divide(examples: Sequence[Example], params: SplitParams) -> Division:
    """Find the groups of near-duplicates, shared turns and relatives, and give each record a part.

    Raises DataError if a part would be empty, or if groups that joined take most records out of a part and a setting
    keeps them apart.
    """
    division = _divide(examples, params)
    if empty := _empty_parts(division):
        raise DataError(_refusal(examples, division, params, empty))
    if (uneven := _uneven_parts(division, params)) and (setting := calmer_setting(examples, params)):
        shares = " and ".join(f"{part} gets {params.fractions[part] + miss:.1%}" for part, miss in uneven.items())
        wanted = " and ".join(f"{params.fractions[part]:.1%}" for part in uneven)
        raise DataError(
            f"{shares} of {len(examples)} records instead of {wanted}, because {len(division.pulled)} moved when their"
            f" group joined another; set {setting}"
        )
    return division


def _divide(examples: Sequence[Example], params: SplitParams) -> Division:
    texts = [compared_text(example, params.duplicates.on) for example in examples]
    found = find_duplicates(texts, params.duplicates.similarity, params.duplicates.method)
    relatives, orphans = find_relatives(examples)
    drops = params.duplicates.mode == "drop"
    # A dropped record joins no two records that resemble it: they may stay apart, because it is in no part.
    near = first_links(found.links) if drops else found.links
    dropped = set(near[:, 1].tolist()) if drops else set()
    joined = keep_forest(len(examples), [near, link_turns(examples, dropped)])
    links = keep_forest(len(examples), [joined, relatives])
    if params.strategy == "grouped":
        together = relatives if params.duplicates.mode == "report" else links
        parts, moved = place_groups(examples, together, dropped, params)
        order: Sequence[int] = range(len(examples))
    else:
        parts, order = cut_parts(len(examples), dropped, params)
        moved = []
    return Division(
        parts=parts,
        order=order,
        groups=name_groups(len(examples), links),
        joined=name_groups(len(examples), joined),
        similar=name_groups(len(examples), found.links),
        same=found.same.tolist(),
        moved=moved,
        orphans=orphans,
    )


def place_groups(
    examples: Sequence[Example], links: Links, dropped: set[int], params: SplitParams
) -> tuple[list[str], list[Move]]:
    """The part of each record, with linked records in one part, and the records that had to move for that.

    A record's draw depends on its prompt alone, so that equal prompts get the same draw regardless of their answers.
    """
    placer = Placer(params.fractions, stratify=params.stratify)
    waiting = links[np.argsort(links[:, 1], kind="stable")].tolist()[::-1]
    for record, example in enumerate(examples):
        joined = []
        while waiting and waiting[-1][1] == record:
            joined.append(waiting.pop()[0])
        drawn = draw(compared_text(example, "prompt"), params.seed)
        placer.place(example.kind, drawn, joined, dropped=record in dropped)
    return [DROPPED if record in dropped else placer.part_of(record) for record in range(len(examples))], placer.moved


def cut_parts(count: int, dropped: set[int], params: SplitParams) -> tuple[list[str], list[int]]:
    """The part of each record, and their order; train and test are rounded down, and val takes the rest."""
    order = [record for record in range(count) if record not in dropped]
    if params.strategy == "shuffled":
        random.Random(params.seed).shuffle(order)
    # The tiny shift keeps 0.29 x 100 from rounding down to 28 in binary fractions.
    train = int(len(order) * params.train + 1e-9)
    test = int(len(order) * params.test + 1e-9)
    parts = [DROPPED] * count
    for place, record in enumerate(order):
        parts[record] = "train" if place < train else "test" if place < train + test else "val"
    return parts, order


def _empty_parts(division: Division) -> list[str]:
    filled = set(division.parts)
    return [part for part in PARTS if part not in filled]


def misses(division: Division, params: SplitParams) -> dict[str, float]:
    """By part, its fraction of the kept records less that of the setting."""
    counts = Counter(division.parts)
    kept = len(division.parts) - counts[DROPPED]
    return {part: counts[part] / kept - wanted for part, wanted in params.fractions.items()}


def is_pulled(division: Division, params: SplitParams, miss: float) -> bool:
    """Whether near-duplicates that joined groups, and not the size of one group alone, make a part miss its share."""
    pulled = division.pulled
    if not pulled or params.duplicates.mode != "group":
        return False
    sizes = Counter(group for record, group in enumerate(division.groups) if record not in pulled)
    return max(sizes.values(), default=0) < abs(miss) * len(division.groups)


def _uneven_parts(division: Division, params: SplitParams) -> dict[str, float]:
    """The misses of the parts that joined groups leave with less than half of the share of train, or double another's.

    In a small file, a miss of up to three standard errors may be chance.
    """
    found: dict[str, float] = {}
    for part, miss in misses(division, params).items() if len(division.parts) >= FEWEST else ():
        wanted = params.fractions[part]
        limit = -wanted / 2 if part == "train" else wanted
        chance = 3 * math.sqrt(wanted * (1 - wanted) / len(division.parts))
        if miss / limit > 1 and abs(miss) > chance and is_pulled(division, params, miss):
            found[part] = miss
    return found


def calmer_setting(examples: Sequence[Example], params: SplitParams) -> str:
    """A higher similarity, tried, at which no part misses its share because groups joined; empty if there is none."""
    for name, duplicates in _higher_similarities(params.duplicates):
        other = replace(params, duplicates=duplicates)
        found = _divide(examples, other)
        far = [miss for miss in misses(found, other).values() if abs(miss) > FAR]
        if not _empty_parts(found) and not any(is_pulled(found, other, miss) for miss in far):
            return f"split.duplicates.{name}"
    return ""


def largest_given(examples: Sequence[Example]) -> int:
    """How many records the file puts into the largest of its own groups; 0 if it names none."""
    return max(Counter(example.group for example in examples if example.group).values(), default=0)


def _refusal(examples: Sequence[Example], division: Division, params: SplitParams, empty: list[str]) -> str:
    """Why parts stay empty, and a setting that was tried and fills them."""
    largest, given = max(Counter(division.similar).values(), default=0), largest_given(examples)
    groups = f" in {len(set(division.groups))} groups" if params.strategy == "grouped" else ""
    alike = f", {largest} of them near-duplicates by split.duplicates" if largest > 1 else ""
    together = params.strategy == "grouped" and params.duplicates.mode != "report"
    joined = max(Counter(division.joined).values(), default=0) if together else 0
    if joined > largest:
        alike = f", {joined} of them joined by near-duplicates and turns that chats share (split.duplicates)"
    if params.strategy == "grouped" and given > max(largest, joined):
        alike = f', {given} of them of one group by the column "{params.columns.group}"'
    if dropped := division.parts.count(DROPPED):
        alike = f" without {dropped} near-duplicates (split.duplicates)"
    tried = _other_settings(examples, division, params)
    remedy = next((f"set {name}" for name, those, other in tried if _is_even(_divide(those, other), other)), "")
    return f"{len(examples) - dropped} records{groups}{alike} leave nothing for {' and '.join(empty)}; " + (
        remedy or "add records or change split's fractions"
    )


def _is_even(division: Division, params: SplitParams) -> bool:
    return not _empty_parts(division) and not _uneven_parts(division, params)


def _other_settings(
    examples: Sequence[Example], division: Division, params: SplitParams
) -> Iterator[tuple[str, Sequence[Example], SplitParams]]:
    """Settings under which fewer records must stay together, the mildest first: name, records, and the settings."""
    if params.strategy != "grouped":
        return
    group, size = Counter(division.similar).most_common(1)[0]
    if largest_given(examples) > size:
        ignored = "" if params.columns.others == "ignore" else " and split.columns.others: ignore"
        yield (
            f'split.columns.group: ""{ignored} (if that column does not say which records belong together)',
            [replace(example, group="") for example in examples],
            params,
        )
    alike = [example for example, one in zip(examples, division.similar, strict=True) if one == group]
    for what, duplicates in _other_duplicates(alike, params.duplicates):
        yield f"split.duplicates.{what}", examples, replace(params, duplicates=duplicates)
    separates = " (separates near-duplicates)" if size > 1 else ""
    yield f"split.strategy: shuffled{separates}", examples, replace(params, strategy="shuffled")


def _other_duplicates(alike: Sequence[Example], duplicates: DuplicatesParams) -> Iterator[tuple[str, DuplicatesParams]]:
    """Settings that find fewer near-duplicates, for records of which `alike` are the largest group."""
    if duplicates.on == "prompt":
        yield (
            "on: instruction (for records that share an input, or the beginning of a chat)",
            replace(duplicates, on="instruction"),
        )
        if all(example.input for example in alike):  # empty ones are compared with nothing, so leaks would not be found
            yield "on: input (for records that share one instruction)", replace(duplicates, on="input")
        if any(example.system for example in alike):
            yield "on: whole (for records whose system prompts differ)", replace(duplicates, on="whole")
    elif duplicates.on == "whole":
        yield "on: prompt (without system prompts and answers)", replace(duplicates, on="prompt")
    yield from _higher_similarities(duplicates)
    yield "mode: report (keeps no near-duplicates and shared turns together)", replace(duplicates, mode="report")


def _higher_similarities(duplicates: DuplicatesParams) -> Iterator[tuple[str, DuplicatesParams]]:
    for higher, what in ((95.0, ""), (98.0, ""), (100.0, " (keeps only equal texts together)")):
        if higher > duplicates.similarity:
            yield f"similarity: {higher:g}{what}", replace(duplicates, similarity=higher)
