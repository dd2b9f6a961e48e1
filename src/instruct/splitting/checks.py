"""The checks for right answers, from their file or from the records, for the parts of a split."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instruct.checks.schema import parse_check, read_check_values
from instruct.core.records import Example

FILES = {"checks.json": ("val", "test"), "train-checks.json": ("train",)}
"""The checks of these parts go into a file: fine-tuning and evaluation must not depend on those of train."""
Checks = Mapping[str, Mapping[str, Any]]
"""A check for each record's id, as JSON values."""


def join_checks(path: Path, own: Checks, examples: Iterable[Example]) -> tuple[Checks, int]:
    """The check of each record, its own before that of the file; and how many checks of the file match no record.

    Raises DataError that names file, record and field of an invalid check.
    """
    given = read_check_values(path)
    known = [example.id for example in examples]
    unknown = len(given.keys() - set(known))
    return {id_: both[id_] for both in [{**given, **own}] for id_ in known if id_ in both}, unknown


def checks_by_file(parts: Mapping[str, Iterable[Example]], checks: Checks) -> dict[str, dict[str, Any]]:
    """For each of FILES the checks of its parts' records."""
    return {
        file: {one.id: checks[one.id] for part in names for one in parts[part] if one.id in checks}
        for file, names in FILES.items()
    }


def count_checks(parts: Mapping[str, Iterable[Example]], checks: Checks, unknown: int) -> dict[str, int]:
    """How many checks match no record, and how many records of each part are closed questions."""
    closed = {id_ for id_, value in checks.items() if not parse_check(value, id_).is_open}
    return {"unknown": unknown, **{part: sum(one.id in closed for one in those) for part, those in parts.items()}}
