"""Preference pairs: one prompt with a better and a worse answer."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from instruct.core.records import Example, read_written


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
    return read_written(path, Pair, "preference pairs; run `dvc repro pairs`")
