"""Preference pairs: one prompt with a better and a worse answer."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.files import read_json
from instruct.core.records import CHAT, Example, as_turns


@dataclass(frozen=True, kw_only=True)
class Pair(Example):
    """An example whose `output` is the chosen answer, and the answer that was rejected."""

    rejected: str

    @property
    def sides(self) -> tuple[Example, Example]:
        """The prompt with the chosen answer, and with the rejected one."""
        values = {field.name: getattr(self, field.name) for field in fields(Example)}
        chosen = Example(**values)
        return chosen, replace(chosen, output=self.rejected)


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs that `write_records` wrote; raises DataError if the file has another shape."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(_is_pair(row) for row in rows):
        raise DataError(f"{path}: is not a file of preference pairs; run `dvc repro pairs`")
    return [Pair(**{**row, "history": as_turns(row.get("history", ()))}) for row in rows]


def _is_pair(row: Any) -> bool:
    names = {field.name for field in fields(Pair)}
    return (
        isinstance(row, dict)
        and names - set(CHAT) <= set(row) <= names
        and all(isinstance(value, list if name == "history" else str) for name, value in row.items())
    )
