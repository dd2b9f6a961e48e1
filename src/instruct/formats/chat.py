"""A chat as a record: roles and their order, and the messages for instruction, input and output."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from instruct.core.json_stream import kind_of
from instruct.core.records import REQUIRED, doubled_keys, shown

# The role names of OpenAI's, Gemini's and ShareGPT's chats.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
# The names of tool calls, as a field of a message and as its role.
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_TOOLS = ("tool", "function", "ipython", "function_call", "observation", "tool_call", "tool_response")
# The values of a field that is not in use; 0 and false say something, such as not to learn a message.
_UNUSED: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, kw_only=True)
class ChatColumns:
    """How chats are read, a part of `split.columns`.

    `system` decides about a system message or a column `system`: the record keeps it, or it becomes the first
    instruction and the question its input, or it is ignored, or the record is refused. `turns` decides about chats of
    several turns: keep all, keep the `first` alone, or refuse the record.
    """

    role: str
    content: str
    system: Literal["keep", "instruction", "ignore", "refuse"]
    turns: Literal["refuse", "first", "all"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Fields of a record, the places of messages they come from, and the parts left out, by keyword."""

    values: dict[str, Any]
    called: dict[str, str]
    left_out: tuple[str, ...] = ()


def read_messages(messages: Any, columns: ChatColumns, label: str) -> Found:
    """The texts for instruction, input and output; `label` is the column's name.

    Raises ValueError that names the invalid message. The caller checks that the texts are texts.
    """
    if not isinstance(messages, list):
        raise ValueError(f'"{label}" must be a list of messages, is {kind_of(messages)}')
    roles = [_role(message, columns, f"{label}[{i}]") for i, message in enumerate(messages)]
    begin = 1 if roles[:1] == ["system"] else 0
    for i, role in enumerate(roles[begin:]):
        expected = ("user", "assistant")[i % 2]
        if role != expected:
            raise ValueError(f'"{label}[{begin + i}]" is of the {role} where the {expected} must speak; correct it')
    turns, open_end = divmod(len(roles) - begin, 2)
    if open_end or not turns:
        raise ValueError(f'"{label}" must end with an answer of the assistant; add it or drop the record')
    if turns > 1 and columns.turns == "refuse":
        raise ValueError(f'"{label}" has {turns} turns; set split.columns.turns: all, or first for the first one')
    if begin and columns.system == "refuse":
        raise ValueError(f'"{label}" starts with a system message, refused by split.columns.system; change that')
    taken = 1 if columns.turns == "first" else turns
    places = [{"instruction": begin + 2 * i, "output": begin + 2 * i + 1} for i in range(taken)]
    if begin and columns.system == "instruction":
        places[0] = {"instruction": 0, "input": 1, "output": 2}
    kept = {"system": 0} if begin and columns.system == "keep" else {}
    left_out = {"turns": turns > taken, "system": bool(begin) and columns.system == "ignore"}
    return Found(
        values=_values(messages, places, columns)
        | {name: messages[i].get(columns.content) for name, i in kept.items()},
        called={name: f"{label}[{i}].{columns.content}" for name, i in (_labelled(places) | kept).items()},
        left_out=tuple(name for name, true in left_out.items() if true),
    )


def keep_turns(found: Found, columns: ChatColumns) -> Found:
    """A record with a `history` column, with the turns that `columns.turns` keeps; raises ValueError if it refuses."""
    history = found.values.get("history")
    if not isinstance(history, list) or not history or columns.turns == "all":
        return found
    if columns.turns == "refuse":
        turns = len(history) + 1
        raise ValueError(
            f'"history" makes this a chat of {turns} turns; set split.columns.turns: all, or first for the first one'
        )
    first = history[0]
    if not isinstance(first, dict) or not set(first) <= set(REQUIRED):
        return found  # whose problems are named later
    values = {name: value for name, value in found.values.items() if name not in (*REQUIRED, "history")}
    called = {name: f"history[0].{name}" for name in REQUIRED}
    return replace(found, values=values | first, called=called, left_out=(*found.left_out, "turns"))


def add_system(found: Found, system: Any, columns: ChatColumns) -> Found:
    """A record with the system prompt of its own column where `columns.system` says; raises ValueError if it refuses.

    A message may hold the same system prompt, but no other one.
    """
    if columns.system == "refuse":
        raise ValueError('"system" is a system prompt, refused by split.columns.system; change that')
    if columns.system == "ignore":
        return replace(found, left_out=tuple(dict.fromkeys((*found.left_out, "system"))))
    if not isinstance(system, str):
        raise ValueError(
            f'"system" must be text, is {kind_of(system)}; if the column holds something else, set '
            "split.columns.system: ignore"
        )
    if columns.system == "keep":
        if found.values.get("system", system) != system:
            raise ValueError('"system" and the first message are different system prompts; remove one')
        return replace(found, values=found.values | {"system": system})
    history = found.values.get("history")
    turns = history if isinstance(history, list) else []
    first = turns[0] if turns else found.values
    if not isinstance(first, Mapping) or "instruction" not in first:
        return found  # whose problems are named later
    if first.get("input") and first["instruction"] == system:
        return found  # a message held it too
    if first.get("input"):
        raise ValueError(
            '"system" cannot become the instruction of a question with an input; set split.columns.system: keep'
        )
    moved = {**first, "instruction": system, "input": first["instruction"]}
    place = "history[0]." if turns else ""
    asked = found.called.get(f"{place}instruction", f"{place}instruction")
    called = found.called | {f"{place}instruction": "system", f"{place}input": asked}
    values = found.values | {"history": [moved, *turns[1:]]} if place else moved
    return replace(found, values=values, called=called)


def refuse_doubled(value: dict[str, Any], where: str) -> None:
    """Raise ValueError if a key appears twice in the object at `where`."""
    if twice := doubled_keys(value):
        raise ValueError(f'"{where}": {twice[0]}')


def _values(messages: list[Any], places: list[dict[str, int]], columns: ChatColumns) -> dict[str, Any]:
    """The fields of a record from its turns; the last turn is the record itself, the others its history."""
    *history, last = (
        {"input": "", **{name: messages[place].get(columns.content) for name, place in turn.items()}} for turn in places
    )
    return {**last, "history": history} if history else last


def _labelled(places: list[dict[str, int]]) -> dict[str, int]:
    """The place in the file of each field."""
    last = len(places) - 1
    return {
        name if i == last else f"history[{i}].{name}": place
        for i, turn in enumerate(places)
        for name, place in turn.items()
    }


def _role(message: Any, columns: ChatColumns, where: str) -> str:
    """The role of a message (system, user or assistant); raises ValueError if it is missing or ambiguous."""
    if not isinstance(message, dict):
        raise ValueError(
            f'"{where}" must be an object with {columns.role} and {columns.content}, is {kind_of(message)}'
        )
    refuse_doubled(message, where)
    used = [name for name, value in message.items() if value not in _UNUSED]
    others = [name for name in used if name not in (columns.role, columns.content)]
    if any(name in _CALLS for name in others):
        raise ValueError(f'"{where}" is a tool call; tool calls are not supported, drop the record')
    if others:
        raise ValueError(f'"{where}" has "{shown(others[0])}", which records do not support; remove it or the record')
    role = message.get(columns.role)
    if not isinstance(role, str) or role not in _ROLES:
        given = f'"{shown(role)}"' if isinstance(role, str) else kind_of(role)
        calls = "; tool calls are not supported, drop the record" if role in _TOOLS else ""
        raise ValueError(f'"{where}.{columns.role}" must be system, user or assistant, is {given}{calls}')
    return _ROLES[role]
