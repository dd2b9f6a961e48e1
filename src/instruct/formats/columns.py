"""Which columns of a user's file make a record: Alpaca fields, prompt and completion, or chat messages."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from instruct.checks.schema import parse_check
from instruct.core.errors import DataError, ParamsError
from instruct.core.json_stream import parse_json
from instruct.core.params import require
from instruct.core.records import CHAT, OPTIONAL, REQUIRED, doubled_keys, find_problems, shown, unknown_fields
from instruct.formats.chat import ChatColumns, Found, add_system, keep_turns, read_messages, refuse_doubled
from instruct.formats.layouts import LOSSES, chat_names, holds_messages, layout_hint


@dataclass(frozen=True, kw_only=True)
class Columns(ChatColumns):
    """The section `split.columns` of params.yaml: the file's name for each field.

    A record of texts may hold a chat: its `system` prompt, and in `history` the turns before the last. A column
    `system` beside messages is their system prompt.
    With the layout `auto` the columns of each record decide, and chats in ShareGPT's or OpenAI's names are read
    without further settings. An `input` or `group` of "" means that there is no such column.
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
    group: str
    check: str
    others: Literal["refuse", "ignore"]

    def __post_init__(self) -> None:
        for layout in ("alpaca", "prompt", "chat"):
            names = [name for name in self.of(layout).values() if name]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ParamsError(f'columns name the column "{twice[0]}" for two fields; name it for one')
        for name in (
            "instruction",
            "output",
            "prompt",
            "completion",
            "messages",
            "role",
            "content",
            "id",
            "kind",
            "check",
        ):
            require(f"columns.{name}", "empty", bool(getattr(self, name)), "the name of a column")

    def of(self, layout: str) -> dict[str, str]:
        """The field of each column of a layout; `origin` and `parent` keep their own names."""
        own: Mapping[str, tuple[str, ...]] = {
            "alpaca": ("instruction", "input", "output"),
            "prompt": ("prompt", "completion"),
            "chat": ("messages",),
        }
        return {name: getattr(self, name, name) for name in (*own[layout], *OPTIONAL, "check")}


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
    system="keep",
    turns="refuse",
    id="id",
    kind="kind",
    group="group",
    check="check",
    others="refuse",
)
"""The default names, for files that params.yaml does not describe."""


@dataclass(frozen=True)
class Picked:
    """The fields of a record as found, its check if it has one, and its problems.

    `left_out` names the parts that were left out, by keyword; `hint` is the problem if the record has another layout.
    """

    values: dict[str, Any]
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    check: dict[str, Any] | None = None
    hint: str = ""


def pick_fields(row: Any, columns: Columns, *, table: bool = False) -> Picked:
    """The fields of one raw record. In a `table` every record has every column, so an empty cell may mean no value."""
    if not isinstance(row, dict):
        return Picked({}, tuple(find_problems(row)))
    problems, left_out = doubled_keys(row), list[str]()
    optional = {getattr(columns, name, name) for name in (*OPTIONAL, "check")}
    # Null means no value in every format; only the input may have none.
    without_input = row.get(columns.input, "") is None
    given = set(row)
    row = {name: one for name, one in row.items() if one is not None and not (table and one == "" and name in optional)}
    layouts = [columns.layout] if columns.layout != "auto" else _layouts_of(row, columns)
    if not layouts and (chat := chat_names(row)):
        columns, layouts = _named_chat(columns, **chat), ["chat"]
    layouts = layouts or ["alpaca"]  # whose errors are the clearest
    fits = any(_fits(given, columns, one) for one in layouts)
    if not fits and (hint := layout_hint(row, asdict(columns), table=table)):
        return Picked({}, (hint,), hint=hint)
    if len(layouts) > 1:
        return Picked({}, (f"holds the columns of {' and '.join(layouts)} at once; choose with split.columns.layout",))
    if layouts == ["alpaca"] and without_input:
        row[columns.input] = ""
    names = columns.of(layouts[0])
    values: dict[str, Any] = {}
    check = None
    try:
        check = read_check(row.get(columns.check), columns.check)
        found = _READERS[layouts[0]](row, columns)
        if row.get("system") and "system" not in names.values():
            found = add_system(found, row["system"], columns)
        values = tidy(
            found.values | {name: row[names[name]] for name in OPTIONAL if names[name] and names[name] in row}
        )
        if layouts == ["alpaca"] and "input" not in values:
            values["input"] = ""
            problems.append(
                f'"{columns.input}" is missing; add it (it may be ""), or set split.columns.input: ""'
                " (`-S split.columns.input=`) if no record has one"
            )
        problems += find_problems(values, names | found.called)
        left_out += found.left_out
    except ValueError as error:
        problems.append(str(error))
    known = {name for name in names.values() if name} | set(("system",) if layouts == ["chat"] else CHAT)
    others = [name for name in row if name not in known]
    if columns.others == "refuse":
        for name in [name for name in others if name in LOSSES]:
            others.remove(name)
            problems.append(f'"{name}" is not a field of a record; {LOSSES[name]}{_LOSE}')
        if layouts == ["alpaca"] and not columns.input and "input" in others:
            others.remove("input")
            problems.append('"input" is not read, because split.columns.input is ""; set that to input')
        if columns.group != "group" and "group" in others:
            others.remove("group")
            problems.append(
                f'"group" is not read, because split.columns.group is "{columns.group}"; '
                "set split.columns.others: ignore"
            )
        objects = [name for name in others if isinstance(row[name], dict)]
        problems += [
            f'"{shown(name)}" is an object; flatten its fields into columns first{_IGNORE}' for name in objects[:8]
        ]
        texts = [name for name in others if not isinstance(row[name], dict)]
        problems += [f"{line}{_IGNORE}" for line in unknown_fields(texts, known)]
    elif any(row[name] != "" for name in others) and "columns" not in left_out:
        left_out.append("columns")
    return Picked(values, tuple(problems), tuple(left_out), check)


def read_check(value: Any, column: str) -> dict[str, Any] | None:
    """A record's check, which tables hold as JSON; raises ValueError that names column and field."""
    if value is None:
        return None
    try:
        found = parse_json(value) if isinstance(value, str) else value
        parse_check(found, f'"{column}"')
    except ValueError as error:
        raise ValueError(f'"{column}": {error}') from None
    except DataError as error:
        raise ValueError(str(error)) from None
    refuse_doubled(found, column)
    return dict(found)


def tidy(values: dict[str, Any]) -> dict[str, Any]:
    """The fields with "" for every spelling of "no input", and numeric ids as text.

    >>> tidy({"input": "<noinput>", "id": 7}), tidy({"input": " "}), tidy({"input": " x "})
    ({'input': '', 'id': '7'}, {'input': ''}, {'input': ' x '})
    """
    tidied = {name: str(one) if name in OPTIONAL and type(one) is int else one for name, one in values.items()}
    given = values.get("input")
    if isinstance(given, str) and (not given.strip() or _NO_INPUT.fullmatch(given.strip())):
        tidied["input"] = ""
    return tidied


def _layouts_of(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """The layouts of which a record has a column."""
    alpaca = {columns.instruction, columns.output}
    signs = {
        "alpaca": alpaca,
        "prompt": {columns.prompt, columns.completion} - alpaca,
        "chat": {columns.messages} - alpaca,
    }
    return [layout for layout, names in signs.items() if not names.isdisjoint(row)]


def _fits(given: set[str], columns: Columns, layout: str) -> bool:
    """Whether a record has the columns that its layout needs; null counts."""
    needed = {name: column for name, column in columns.of(layout).items() if name not in (*OPTIONAL, "check", "input")}
    return set(needed.values()) <= given


@lru_cache
def _named_chat(columns: Columns, *, messages: str, role: str, content: str) -> Columns:
    """The settings with the names of a chat in a usual layout; checked once per file, not per record."""
    return replace(columns, layout="chat", messages=messages, role=role, content=content)


# Each returns the three fields, as far as the record has them.
# They raise ValueError if there is no column to read the fields from.
def _alpaca(row: Mapping[str, Any], columns: Columns) -> Found:
    names = {name: column for name, column in columns.of("alpaca").items() if name in REQUIRED and column}
    values = {name: row[column] for name, column in names.items() if column in row}
    return _with_history(values if columns.input else {**values, "input": ""}, names, row, columns)


def _with_history(values: dict[str, Any], names: dict[str, str], row: Mapping[str, Any], columns: Columns) -> Found:
    """The fields of the last turn with the turns before it, if the record has a `history`."""
    told = row.get("history")
    if isinstance(told, str) and columns.others == "ignore" and not told.lstrip().startswith("["):
        return Found(values=values, called=names, left_out=("columns",))  # another column of this name
    if told and "history" not in names.values():
        history = _listed(told, "history")
        if isinstance(history, list):
            history = [_turn(turn, f"history[{i}]") for i, turn in enumerate(history)]
        values = {**values, "history": history}
    return keep_turns(Found(values=values, called=names), columns)


def _turn(turn: Any, where: str) -> Any:
    """A turn of the history as an object; LLaMA-Factory's files have pairs of question and answer."""
    if isinstance(turn, list) and len(turn) == 2:
        return {"instruction": turn[0], "input": "", "output": turn[1]}
    if not isinstance(turn, dict):
        return turn
    refuse_doubled(turn, where)
    return {"input": "", **turn}


def _prompt(row: Mapping[str, Any], columns: Columns) -> Found:
    names = {"instruction": columns.prompt, "output": columns.completion}
    values = {name: row[column] for name, column in names.items() if column in row}
    chats = [name for name, value in values.items() if holds_messages(value, columns.role, columns.content)]
    if chats == ["output"] and all(isinstance(value, str) for value in values.values()):
        chats = []  # a question that is text may ask for messages as JSON
    values |= {name: _listed(values[name], names[name]) for name in chats}
    if len(values) == 2 and len(chats) == 1 and any(isinstance(value, str) for value in values.values()):
        raise ValueError(f'"{names[chats[0]]}" holds messages and the other column text; write both in one way')
    if len(values) == 2 and all(isinstance(value, list) for value in values.values()):
        if row.get("history"):
            raise ValueError(f'"history" is beside messages; {LOSSES["history"]}')
        return read_messages([*values["instruction"], *values["output"]], columns, "prompt and completion")
    return _with_history({**values, "input": ""}, names, row, columns)


def _chat(row: Mapping[str, Any], columns: Columns) -> Found:
    if columns.messages not in row:
        raise ValueError(f'"{columns.messages}" is missing; add it')
    return read_messages(_listed(row[columns.messages], columns.messages), columns, columns.messages)


def _listed(value: Any, label: str) -> Any:
    """A list that tables hold as the text of its JSON; raises ValueError that names the column."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        raise ValueError(f'"{label}": {error}; write its list as JSON') from None


_READERS = {"alpaca": _alpaca, "prompt": _prompt, "chat": _chat}
_LOSE = ", or lose it with `-S split.columns.others=ignore`"
_IGNORE = "; to leave out such columns, add `-S split.columns.others=ignore`"
# How data sets spell "no input"; the first is Alpaca's.
_NO_INPUT = re.compile(r"<\s*no[ _-]?input\s*>", re.I)
