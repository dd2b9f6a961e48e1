"""What `instruct check` says of the reference answers of a file, and of the checks that they should pass."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from instruct.checks.rules import is_right
from instruct.checks.schema import Check, parse_check, read_check_values
from instruct.checks.units import is_known
from instruct.core.held_out import normalise
from instruct.core.records import Example, shown, whole_question
from instruct.splitting.checks import Checks

_NAMED = 5  # records or units that one line names
_COMMON = 0.2  # an answer of a larger share of the records is said
_FEW = 10  # in fewer records the share of an answer says little


def unmatched_lines(path: Path, unknown: int, source: Path) -> list[str]:
    """A warning if some checks of the file `split.checks` match no record of the data."""
    if not unknown:
        return []
    return [
        f"warning: {path}: {unknown} of {len(read_check_values(path))} checks match no record of {source}; correct"
        " their ids (the records in data/split have theirs), or set split.checks to a file for this data ({} is one"
        " without checks)"
    ]


def common_lines(source: Path, examples: Sequence[Example]) -> list[str]:
    """A note if one reference answer is that of many records: a model may learn to give it always."""
    counts = Counter(normalise(one.output) for one in examples)
    answer, count = max(counts.items(), key=lambda pair: pair[1], default=("", 0))
    if len(examples) < _FEW or count < _COMMON * len(examples):
        return []
    return [
        f'note: {source}: the most common answer, "{shown(answer)}", is that of {count / len(examples):.1%} of the'
        " records; a model that always gives it is right there"
    ]


def with_checks(examples: list[Example], checks: Checks) -> list[tuple[Example, Check]]:
    """The records that have a check, each with its own."""
    return [(one, parse_check(checks[one.id], one.id)) for one in examples if one.id in checks]


def reference_lines(source: Path, checked: Sequence[tuple[Example, Check]]) -> list[str]:
    """A warning that names the records whose reference answer their own check finds wrong, if there are any."""
    closed = [(one, check) for one, check in checked if not check.is_open]
    failing = [one.id for one, check in closed if not is_right(check, one.output, whole_question(one))]
    if not failing:
        return []
    return [
        f"warning: {source}: {len(failing)} of {len(closed)} reference answers fail their own check: {_named(failing)}"
    ]


def unit_lines(source: Path, checked: Sequence[tuple[Example, Check]]) -> list[str]:
    """A note that names the units of checks that are compared with no other unit, except what the question counts."""
    unknown = {
        unit
        for one, check in checked
        for unit in check.units
        if not is_known(unit)
        and not re.search(rf"\bhow many (?:\w+ ){{0,2}}{re.escape(unit)}\b", whole_question(one), re.IGNORECASE)
    }
    if not unknown:
        return []
    return [
        f"note: {source}: units that checks do not know, so any other unknown unit passes: {_named(sorted(unknown))}"
    ]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
