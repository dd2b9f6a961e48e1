"""Finds exact and near duplicates within and across data files, and writes the records without or with their groups."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from instruct.core.errors import DataError, ParamsError
from instruct.core.files import write_json_list
from instruct.core.records import REQUIRED, Example, as_row, group_lines, part_rows, shown
from instruct.core.shown import printable
from instruct.formats.columns import Columns
from instruct.formats.layouts import overrides
from instruct.formats.rows import Rows, left_out_lines
from instruct.splitting.links import find_ends, find_relatives, link_turns
from instruct.splitting.near_duplicates import (
    DuplicatesParams,
    compared_text,
    find_duplicates,
    first_links,
    keep_forest,
    name_groups,
)

Place = tuple[Path, str]  # file and id
SHOWN_TEXT = 90
SHOWN_MEMBERS = 6


def find_in_files(
    files: Sequence[Path], params: DuplicatesParams, columns: Columns, *, out: Path | None, show: int
) -> list[str]:
    """What was found, in lines; `drop` and `group` write `out`.

    Raises DataError for an invalid record, and ParamsError if `out` is missing, superfluous, an input or not a .json
    file.
    """
    if (params.mode == "report") != (out is None):
        raise ParamsError("--out goes with --mode drop and --mode group, which need it")
    if out and len(files) > 1:
        raise ParamsError(f"--mode {params.mode} writes the records of one file; give one, or leave --mode out")
    if out and out.suffix != ".json":
        raise ParamsError(f"--out {out}: the records are written as JSON; give a name that ends in .json")
    if out and out.resolve() == files[0].resolve():
        raise ParamsError(f"--out {out}: is the file to read; give another name")
    sources = [Rows(file, columns) for file in files]
    places, examples = _read_all(sources)
    texts = [compared_text(example, params.on) for example in examples]
    found = find_duplicates(texts, params.similarity, params.method)
    groups = name_groups(len(places), found.links)
    lines = describe_groups(places, groups, found.same.tolist(), texts, show)
    if shared := _count_shared(places, examples):
        lines.append(f"{shared} records end with a question and its answer that a record of another file holds too")
    lines += [line for rows in sources for line in left_out_lines(rows)]
    if out:
        # As in the split, a record that resembles two groups neither joins them nor throws out the second's first one.
        near = first_links(found.links) if params.mode == "drop" else found.links
        repeated = set(near[:, 1].tolist()) if params.mode == "drop" else set()
        kept = [i for i in range(len(places)) if i not in repeated]
        checks = sources[0].checks
        links = [near, link_turns(examples, repeated), find_relatives(examples)[0]]
        together = name_groups(len(places), keep_forest(len(places), links))
        grouped = (replace(examples[i], group=examples[together[i]].id) for i in kept)
        write_json_list(out, (as_row(one) | ({"check": checks[one.id]} if one.id in checks else {}) for one in grouped))
        lines.append(f"{out}: {len(kept)} of {len(places)} records")
        lines += settings_lines(out, columns)
    return lines


def settings_lines(out: Path, columns: Columns) -> list[str]:
    """A line with the settings that read the written file, if `columns` do not."""
    usual = {name: name for name in (*REQUIRED, "id", "kind", "group", "check")}
    changed = {name: one for name, one in usual.items() if getattr(columns, name) != one}
    if columns.layout in ("prompt", "chat"):
        changed = {"layout": "alpaca", **changed}
    named = overrides({"split.data": str(out), **{f"split.columns.{name}": one for name, one in changed.items()}})
    return [f"{out}: its columns have the usual names; to read it, add `{named}` to `dvc exp run`"] if changed else []


def _read_all(sources: Sequence[Rows]) -> tuple[list[Place], list[Example]]:
    places: list[Place] = []
    examples: list[Example] = []
    bad: list[str] = []
    for rows in sources:
        good, problems = part_rows(rows)
        bad += [line for lines in problems.values() for line in lines]
        places += [(rows.path, example.id) for example in good]
        examples += good
    if bad:
        raise DataError("\n".join(group_lines(bad)))
    return places, examples


def _count_shared(places: Sequence[Place], examples: Sequence[Example]) -> int:
    """How many records end with a turn of another file, and one of both is a chat."""
    files = [file for file, _ in places]
    return sum(bool(found - {own}) for own, found in zip(files, find_ends(examples, files), strict=True))


def describe_groups(
    places: Sequence[Place], groups: Sequence[int], same: Sequence[int], texts: Sequence[str], show: int
) -> list[str]:
    """Counts, and the members of the largest groups."""
    members: dict[int, list[int]] = defaultdict(list)
    for record, group in enumerate(groups):
        members[group].append(record)
    found = sorted((those for those in members.values() if len(those) > 1), key=lambda those: (-len(those), those))
    across = sum(len({places[i][0] for i in those}) > 1 for those in found)
    equal = sum(first != i for i, first in enumerate(same))
    lines = [
        f"{len(places)} records: {sum(map(len, found))} in {len(found)} groups of near-duplicates, {equal} equal to an"
        f" earlier one; {across} groups are in more than one file"
    ]
    for those in found[:show]:
        lines.append(f"group of {len(those)}")
        for i in those[:SHOWN_MEMBERS]:
            text = texts[i] if len(texts[i]) <= SHOWN_TEXT else texts[i][: SHOWN_TEXT - 1] + "…"
            lines.append(f"  {places[i][0]} {shown(places[i][1])}: {printable(text)}")
        if len(those) > SHOWN_MEMBERS:
            lines.append(f"  and {len(those) - SHOWN_MEMBERS} more")
    return lines
