"""The `check` of a record: what makes an answer to it right.

{"type": "open"}                                                   many good answers: similarity alone
{"type": "exact", "accept": ["She left."], "strict": false}        the whole answer
{"type": "accept", "accept": ["lend", "loan"]}                     a word or phrase, alone or in a sentence
{"type": "one_of", "answer": "spam", "options": ["spam", "not spam"]}
{"type": "number", "value": 12.5, "unit": "meters", "tolerance": 0}  value: a number, a fraction as text, or a list
{"type": "set", "items": ["copper", ["tin", "Sn"]]}                all of them, in any order
{"type": "order", "items": ["egg", "larva", "adult"]}              all of them, in this order
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct.checks.words import words_of
from instruct.core.errors import DataError
from instruct.core.files import read_json
from instruct.core.parsing import is_number

TYPES = {
    "open": ((), ()),
    "exact": (("accept",), ("strict",)),
    "accept": (("accept",), ()),
    "one_of": (("answer", "options"), ()),
    "number": (("value",), ("unit", "tolerance")),
    "set": (("items",), ()),
    "order": (("items",), ()),
}
"""The fields of each type: required ones, then optional ones."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check for right answers; fields that its type lacks keep their defaults.

    `accept` are texts of which one is enough; `items` are alternatives for each of several required parts. `values` are
    numbers, or fractions as text that must appear literally; `units` has one unit per value, or is empty. `tolerance`
    is absolute.
    """

    type: str
    accept: tuple[str, ...] = ()
    strict: bool = False
    options: tuple[str, ...] = ()
    items: tuple[tuple[str, ...], ...] = ()
    values: tuple[float | str, ...] = ()
    units: tuple[str, ...] = ()
    tolerance: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there is no single right answer."""
        return self.type == "open"


def read_checks(path: Path) -> dict[str, Check]:
    """The checks by record id; raises DataError that names file, record and field."""
    return {id_: parse_check(value, f"{path}: {id_}") for id_, value in read_check_values(path).items()}


def read_check_values(path: Path) -> dict[str, Any]:
    """The checks as valid JSON values; raises DataError like `read_checks`."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path}: must be an object with a check for each record's id")
    for id_, value in values.items():
        parse_check(value, f"{path}: {id_}")
    return values


def parse_check(value: Any, where: str) -> Check:
    """Read a record's `check`; raises DataError that begins with `where` and names the field."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in TYPES:
        raise DataError(f'{where}: check: "type" must be one of {", ".join(TYPES)}')
    required, optional = TYPES[kind]
    for name in required:
        if name not in value:
            raise DataError(f'{where}: check: type {kind} needs "{name}"')
    for name in value:
        if name not in ("type", *required, *optional):
            raise DataError(f'{where}: check: type {kind} has no field "{name}"')
    return Check(type=kind, **_fields(kind, value, f"{where}: check.{{}}"))


def _fields(kind: str, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    if kind in ("exact", "accept"):
        return {"accept": _texts(value["accept"], where.format("accept")), "strict": _flag(value, where)}
    if kind == "one_of":
        options = _texts(value["options"], where.format("options"))
        answer = _texts([value["answer"]], where.format("answer"))
        if answer[0] not in options:
            raise DataError(f"{where.format('answer')}: is not among the options")
        _must_differ(options, where.format("options"))
        return {"accept": answer, "options": options}
    if kind in ("set", "order"):
        items = value["items"]
        if not isinstance(items, list) or not items:
            raise DataError(f"{where.format('items')}: must be a list of texts or of lists of texts")
        parts = [one if isinstance(one, list) else [one] for one in items]
        return {"items": tuple(_texts(one, where.format("items")) for one in parts)}
    return _number(value, where) if kind == "number" else {}


def _number(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = value["value"]
    values = given if isinstance(given, list) else [given]
    unit = value.get("unit", [])
    units = unit if isinstance(unit, list) else [unit]
    if not values or not all(_is_number(one) or (isinstance(one, str) and one) for one in values):
        raise DataError(f"{where.format('value')}: must be a finite number, a fraction as text, or a list of them")
    if units and (len(units) != len(values) or not all(isinstance(one, str) for one in units)):
        raise DataError(f"{where.format('unit')}: must be one text for each value")
    tolerance = value.get("tolerance", 0)
    if not _is_number(tolerance) or tolerance < 0:
        raise DataError(f"{where.format('tolerance')}: must be a number from 0")
    found = tuple(one if isinstance(one, str) else float(one) for one in values)
    return {"values": found, "units": tuple(units), "tolerance": float(tolerance)}


def _is_number(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e15


def _flag(value: Mapping[str, Any], where: str) -> bool:
    strict = value.get("strict", False)
    if not isinstance(strict, bool):
        raise DataError(f"{where.format('strict')}: must be true or false")
    return strict


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else None
    if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise DataError(f"{where}: must be a list of texts, none of them empty")
    for one in texts:
        if not words_of(one):
            raise DataError(f'{where}: "{one}" has no letters or digits, so no answer can match it. Write it in words.')
    return tuple(texts)


def _must_differ(options: Sequence[str], where: str) -> None:
    """Refuse options that differ only in case or punctuation: no answer could name just one of them."""
    seen: dict[tuple[str, ...], str] = {}
    for option in options:
        words = tuple(words_of(option))
        if words in seen:
            raise DataError(f'{where}: "{seen[words]}" and "{option}" count as the same answer. Remove or reword one.')
        seen[words] = option
