"""Which columns of a user's file make a record: Alpaca fields, prompt and completion, or chat messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from instruct.core.errors import ParamsError
from instruct.core.json_stream import parse_json
from instruct.core.params import require
from instruct.core.records import OPTIONAL, REQUIRED, doubled_keys, find_problems, unknown_fields
from instruct.formats.chat import ChatColumns, read_messages


@dataclass(frozen=True, kw_only=True)
class Columns(ChatColumns):
    """The section `split.columns` of params.yaml: under which name the file holds each field.

    With the layout `auto` the columns of each record tell. An `input` of "" says that there is no such column.
    """

    layout: Literal["auto", "alpaca", "prompt", "chat"]
    instruction: str
    input: str
    output: str
    prompt: str
    completion: str
    messages: str
    id: str
    kind: str
    others: Literal["refuse", "ignore"]

    def __post_init__(self) -> None:
        for layout in ("alpaca", "prompt", "chat"):
            names = [name for name in self.of(layout).values() if name]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ParamsError(f'columns name the column "{twice[0]}" for two fields; name it for one')
        for name in ("instruction", "output", "prompt", "completion", "messages", "role", "content", "id", "kind"):
            require(f"columns.{name}", "empty", bool(getattr(self, name)), "the name of a column")

    def of(self, layout: str) -> dict[str, str]:
        """The field of each column that a layout has; a record's own provenance is under its own names."""
        own: Mapping[str, tuple[str, ...]] = {
            "alpaca": ("instruction", "input", "output"),
            "prompt": ("prompt", "completion"),
            "chat": ("messages",),
        }
        return {name: getattr(self, name, name) for name in own[layout] + OPTIONAL}


USUAL = Columns(
    layout="auto",
    instruction="instruction",
    input="input",
    output="output",
    prompt="prompt",
    completion="completion",
    messages="messages",
    role="role",
    content="content",
    system="instruction",
    turns="refuse",
    id="id",
    kind="kind",
    others="refuse",
)
"""The usual names, for files that params.yaml says nothing about."""


@dataclass(frozen=True)
class Picked:
    """The fields of a record as they were found, and what is wrong with it."""

    values: dict[str, Any]
    problems: tuple[str, ...] = ()


def pick_fields(row: Any, columns: Columns, *, table: bool = False) -> Picked:
    """The fields of one raw record. In a `table` every record has every column, so an empty one may mean none."""
    if not isinstance(row, dict):
        return Picked({}, tuple(find_problems(row)))
    if table:
        optional = {getattr(columns, name, name) for name in OPTIONAL}
        row = {name: value for name, value in row.items() if value != "" or name not in optional}
    layouts = [columns.layout] if columns.layout != "auto" else _layouts_of(row, columns)
    if len(layouts) > 1:
        return Picked({}, (f"holds the columns of {' and '.join(layouts)} at once; choose with split.columns.layout",))
    names = columns.of(layouts[0])
    problems = doubled_keys(row)
    try:
        values, called = _READERS[layouts[0]](row, columns)
        values |= {name: row[names[name]] for name in OPTIONAL if names[name] in row}
        problems += find_problems(values, names | called)
    except ValueError as error:
        values = {}
        problems.append(str(error))
    if columns.others == "refuse":
        known = [name for name in names.values() if name]
        found = unknown_fields([name for name in row if name not in known], known)
        problems += [f"{line} (split.columns has settings for this)" for line in found]
    return Picked(values, tuple(problems))


def _layouts_of(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """The layouts whose own columns a record has; alpaca where it has none, whose complaints are the clearest."""
    alpaca = {columns.instruction, columns.output}
    signs = {
        "alpaca": alpaca,
        "prompt": {columns.prompt, columns.completion} - alpaca,
        "chat": {columns.messages} - alpaca,
    }
    return [layout for layout, names in signs.items() if not names.isdisjoint(row)] or ["alpaca"]


# Each gives the three fields, as far as the record has them, and the names that messages call them by.
# They raise ValueError where there is nothing to take the fields from.
def _alpaca(row: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], dict[str, str]]:
    names = {name: column for name, column in columns.of("alpaca").items() if name in REQUIRED and column}
    values = {name: row[column] for name, column in names.items() if column in row}
    return (values if columns.input else {**values, "input": ""}), names


def _prompt(row: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], dict[str, str]]:
    names = {"instruction": columns.prompt, "output": columns.completion}
    values = {name: row[column] for name, column in names.items() if column in row}
    if len(values) == 2 and all(isinstance(value, list) for value in values.values()):
        return read_messages([*values["instruction"], *values["output"]], columns, "prompt and completion")
    return {**values, "input": ""}, names


def _chat(row: Mapping[str, Any], columns: Columns) -> tuple[dict[str, Any], dict[str, str]]:
    if columns.messages not in row:
        raise ValueError(f'"{columns.messages}" is missing; add it')
    messages = row[columns.messages]
    return read_messages(parse_json(messages) if isinstance(messages, str) else messages, columns, columns.messages)


_READERS = {"alpaca": _alpaca, "prompt": _prompt, "chat": _chat}
