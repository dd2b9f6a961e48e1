"""A chat as a record: who said what, in which order, and what of it becomes instruction, input and output."""

from dataclasses import dataclass
from typing import Any, Literal

from instruct.core.json_stream import DoubledKeys, kind_of
from instruct.core.records import shown

# The names of OpenAI's, Gemini's and ShareGPT's chats.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
# What names a tool call, as a field of a message and as its role.
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_TOOLS = ("tool", "function", "ipython", "function_call", "observation", "tool_call", "tool_response")


@dataclass(frozen=True, kw_only=True)
class ChatColumns:
    """How chats are read, a part of `split.columns`.

    `system` says what becomes of a system message: the record keeps it, or it is the first instruction and the
    question its input, or it is ignored, or such a record is refused. Of a chat of several `turns` all are taken, or
    the `first` alone, or it is refused.
    """

    role: str
    content: str
    system: Literal["keep", "instruction", "ignore", "refuse"]
    turns: Literal["refuse", "first", "all"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Fields of a record, the names that messages call them by, and what of the record was left out, by a word."""

    values: dict[str, Any]
    called: dict[str, str]
    left_out: tuple[str, ...] = ()


def read_messages(messages: Any, columns: ChatColumns, label: str) -> Found:
    """The texts for instruction, input and output; `label` is the name of the column.

    Raises ValueError that says which message is not in order. Whether the texts are texts is for the caller to see.
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
        raise ValueError(
            f'"{label}" holds {turns} turns; set split.columns.turns: all, or first for the first of them alone'
        )
    if begin and columns.system == "refuse":
        raise ValueError(f'"{label}" begins with a system message, which split.columns.system refuses')
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


def _values(messages: list[Any], places: list[dict[str, int]], columns: ChatColumns) -> dict[str, Any]:
    """The fields of a record from where its turns are; the last turn is the record itself, the others its history."""
    *history, last = (
        {"input": "", **{name: messages[place].get(columns.content) for name, place in turn.items()}} for turn in places
    )
    return {**last, "history": history} if history else last


def _labelled(places: list[dict[str, int]]) -> dict[str, int]:
    """The place of each field under the name that the record gives it."""
    last = len(places) - 1
    return {
        name if i == last else f"history[{i}].{name}": place
        for i, turn in enumerate(places)
        for name, place in turn.items()
    }


def _role(message: Any, columns: ChatColumns, where: str) -> str:
    """Who speaks, in our word; raises ValueError where that is not said once and clearly."""
    if not isinstance(message, dict):
        raise ValueError(
            f'"{where}" must be an object with {columns.role} and {columns.content}, is {kind_of(message)}'
        )
    if isinstance(message, DoubledKeys):
        raise ValueError(f'"{where}": "{shown(message.doubled[0])}" stands twice in one object; remove one')
    others = [name for name, value in message.items() if name not in (columns.role, columns.content) and value]
    if any(name in _CALLS for name in others):
        raise ValueError(f'"{where}" holds a tool call, and these are not supported; drop the record')
    if others:
        raise ValueError(f'"{where}" holds "{shown(others[0])}", which a record has no place for; remove it')
    role = message.get(columns.role)
    if not isinstance(role, str) or role not in _ROLES:
        given = f'"{shown(role)}"' if isinstance(role, str) else kind_of(role)
        calls = "; tool calls are not supported, drop the record" if role in _TOOLS else ""
        raise ValueError(f'"{where}.{columns.role}" must be system, user or assistant, is {given}{calls}')
    return _ROLES[role]
