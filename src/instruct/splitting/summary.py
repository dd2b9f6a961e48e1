"""The content of metrics/split.json, and warnings about a split."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from instruct.core.records import Example
from instruct.splitting.links import find_ends
from instruct.splitting.partition import (
    DROPPED,
    FAR,
    PARTS,
    Division,
    SplitParams,
    calmer_setting,
    is_pulled,
    largest_given,
    misses,
)

_SHOWN = 5
FEW = 1_000  # fewer records can miss a fraction by FAR without a large group


def summarise(division: Division, examples: Sequence[Example], params: SplitParams, *, refused: int) -> dict[str, Any]:
    """Counts of a split; `across` counts held-out records that have an equal or near-duplicate prompt in train.

    Its `turn` counts those whose last question and answer are a turn of a record of train, and one of both is a chat.
    """
    counts = Counter(division.parts)
    kept = len(division.parts) - counts[DROPPED]
    sizes, alike = Counter(division.similar), _alike(division, params)
    ends = find_ends(examples, division.parts)
    taught = Counter(part for part, places in zip(division.parts, ends, strict=True) if "train" in places)
    kept_kinds = {e.kind for e, part in zip(examples, division.parts, strict=True) if e.kind and part != DROPPED}
    return {
        "read": len(division.parts) + refused,
        "refused": refused,
        "dropped": counts[DROPPED],
        "kept": kept,
        "kinds": len(kept_kinds),
        **{part: counts[part] for part in PARTS},
        "fractions": {part: round(counts[part] / kept, 4) for part in PARTS},
        "groups": len(set(division.groups)),
        "duplicates": {
            "on": params.duplicates.on,
            "similarity": params.duplicates.similarity,
            "groups": sum(size > 1 for size in sizes.values()),
            "records": sum(size for size in sizes.values() if size > 1),
            "largest": max(sizes.values()),
        },
        "across": {
            "groups": count_straddling(alike, division.parts),
            **{part: count_seen(division, alike, part) | {"turn": taught[part]} for part in PARTS[1:]},
        },
        "moved": len(division.moved),
        "orphans": len(division.orphans),
    }


def _alike(division: Division, params: SplitParams) -> Sequence[int]:
    """The group of near-duplicates of each record; where they are dropped, a kept record is alike to no other one."""
    return range(len(division.parts)) if params.duplicates.mode == "drop" else division.similar


def count_straddling(groups: Sequence[int], parts: Sequence[str]) -> int:
    """How many groups have records in more than one part; `groups` holds that of each record."""
    seen = {(group, part) for group, part in zip(groups, parts, strict=True) if part != DROPPED}
    return sum(count > 1 for count in Counter(group for group, _ in seen).values())


def count_seen(division: Division, alike: Sequence[int], part: str) -> dict[str, int]:
    """How many records of a part are also in train: equal ones, and those whose group in `alike` is partly in train."""
    train = [record for record, name in enumerate(division.parts) if name == "train"]
    held_out = [record for record, name in enumerate(division.parts) if name == part]
    equal = {division.same[record] for record in train}
    near = {alike[record] for record in train}
    return {
        "equal": sum(division.same[record] in equal for record in held_out),
        "near": sum(alike[record] in near for record in held_out),
    }


def find_warnings(
    division: Division, counts: dict[str, Any], examples: Sequence[Example], params: SplitParams
) -> list[str]:
    """A line for each fact that readers of the score should know."""
    lines = _given_groups(examples, params) + _nothing_compared(examples, params)
    far = {part: miss for part, miss in misses(division, params).items() if abs(miss) > FAR}
    pulled = [part for part, miss in far.items() if is_pulled(division, params, miss)]
    calmer = calmer_setting(examples, params) if pulled else ""
    for part, miss in far.items():
        wanted = params.fractions[part]
        why = _why(abs(miss), counts, division, examples, params)
        if part in pulled:
            why = f"; {len(division.pulled)} records moved because groups joined" + (
                f"; set {calmer}" if calmer else ""
            )
        lines.append(f"warning: {part} has {wanted + miss:.1%} of the records instead of {wanted:.1%}{why}")
    for part in PARTS[1:]:
        if seen := counts["across"][part]["near"]:
            lines.append(
                f"warning: {seen} of {counts[part]} {part} records have a near-duplicate in train;"
                f" set split.strategy: grouped, or split.duplicates.mode: drop"
            )
        if seen := counts["across"][part]["turn"]:
            lines.append(
                f"warning: {seen} of {counts[part]} {part} records end with a question and its answer that a record of"
                f" train holds too; {_apart(params)}"
            )
    torn = count_straddling(division.groups, division.parts)  # with what the file says belongs together
    if torn > count_straddling(division.joined, division.parts):
        lines.append(
            f'warning: {torn} groups of records with one "group" or "parent" in the file, or near-duplicates, are in '
            "several parts; set split.strategy: grouped"
        )
    moves = [
        f"moved {examples[move.record].id} from {move.source} to {move.target}: {examples[move.joined_by].id} joins its"
        f" group to one in {move.target}"
        for move in division.moved
    ]
    orphans = [
        f'warning: the "parent" of {examples[record].id} is not in the file; it is placed on its own'
        for record in division.orphans
    ]
    return lines + _first(moves) + _first(orphans)


def _apart(params: SplitParams) -> str:
    """Why records that share a turn are in two parts, and what to do."""
    if params.strategy == "grouped" and params.duplicates.mode != "report":
        return "so many records hold it that they are not kept together; leave it out of them"
    return "set split.strategy: grouped and split.duplicates.mode: group"


def _first(lines: list[str]) -> list[str]:
    more = [f"({len(lines) - _SHOWN} more like this)"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more


def _given_groups(examples: Sequence[Example], params: SplitParams) -> list[str]:
    """A line about the groups that the file names, which decide about the parts of their records."""
    groups = [example.group for example in examples if example.group]
    if params.strategy != "grouped" or largest_given(examples) < 2:
        return []
    return [
        f'{len(groups)} records have a column "{params.columns.group}": {len(set(groups))} groups stay together'
        " (see split.columns.group)"
    ]


def _nothing_compared(examples: Sequence[Example], params: SplitParams) -> list[str]:
    """A warning if most records lack the text in which near-duplicates are looked for."""
    empty = sum(not example.input.strip() for example in examples) if params.duplicates.on == "input" else 0
    if empty <= len(examples) / 2:
        return []
    return [
        f"warning: {empty} of {len(examples)} records have no input, so they are compared with no other, and"
        " near-duplicates may be in train and test; set split.duplicates.on: prompt, or instruction"
    ]


def _why(
    miss: float, counts: dict[str, Any], division: Division, examples: Sequence[Example], params: SplitParams
) -> str:
    """Why a part lacks its share, and what to do; `miss` is the difference."""
    grouped = params.strategy == "grouped"
    alike = counts["duplicates"]["largest"] if params.duplicates.mode == "group" else 1
    joined = max(Counter(division.joined).values()) if params.duplicates.mode == "group" else 1
    given = largest_given(examples)
    kept = [group for group, part in zip(division.groups, division.parts, strict=True) if part != DROPPED]
    largest = given if params.duplicates.mode == "report" else max(Counter(kept).values())
    if grouped and largest > 1 and largest / counts["kept"] >= miss:
        advice = "raise split.duplicates.similarity to divide it"
        if joined > max(given, alike):
            advice = "turns that chats share keep it together; set split.duplicates.mode: report to divide it"
        elif given > alike:
            advice = f'the column "{params.columns.group}" keeps it together'
        elif largest > alike:
            column = "parent" if any(example.parent for example in examples) else params.columns.group
            advice = f'the column "{column}" keeps it together'
        return f"; one group has {largest / counts['kept']:.1%} of them; {advice}"
    if counts["kept"] >= FEW:
        return ""
    shuffled = ", or set split.strategy: shuffled" if grouped and largest <= 1 else ""
    return f"; they are few: add records{shuffled}"
