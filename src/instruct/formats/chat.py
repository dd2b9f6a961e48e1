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


@dataclass(frozen=True, kw_only=True)
class ChatColumns:
    """How chats are read, a part of `split.columns`.

    `system` says what becomes of a system message: it is the instruction and the question its input, or it is
    ignored, or such a record is refused. A chat of several `turns` is refused, or only its `first` is taken.
    """

    role: str
    content: str
    system: Literal["instruction", "ignore", "refuse"]
    turns: Literal["refuse", "first"]


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
            f'"{label}" holds {turns} turns, a record holds one; set split.columns.turns: first, or cut it'
        )
    if begin and columns.system == "refuse":
        raise ValueError(f'"{label}" begins with a system message, which split.columns.system refuses')
    places = {"instruction": begin, "output": begin + 1}
    if begin and columns.system == "instruction":
        places = {"instruction": 0, "input": 1, "output": 2}
    values = {name: messages[place].get(columns.content) for name, place in places.items()}
    left_out = {"turns": turns > 1, "system": bool(begin) and columns.system == "ignore"}
    return Found(
        values={"input": "", **values},
        called={name: f"{label}[{place}].{columns.content}" for name, place in places.items()},
        left_out=tuple(name for name, true in left_out.items() if true),
    )


def _role(message: Any, columns: ChatColumns, where: str) -> str:
    """Who speaks, in our word; raises ValueError where that is not said once and clearly."""
    if not isinstance(message, dict):
        raise ValueError(
            f'"{where}" must be an object with {columns.role} and {columns.content}, is {kind_of(message)}'
        )
    if isinstance(message, DoubledKeys):
        raise ValueError(f'"{where}": "{shown(message.doubled[0])}" stands twice in one object; remove one')
    others = [name for name, value in message.items() if name not in (columns.role, columns.content) and value]
    if others:
        raise ValueError(f'"{where}" holds "{shown(others[0])}", which a record has no place for; remove it')
    role = message.get(columns.role)
    if not isinstance(role, str) or role not in _ROLES:
        given = f'"{shown(role)}"' if isinstance(role, str) else kind_of(role)
        raise ValueError(f'"{where}.{columns.role}" must be system, user or assistant, is {given}')
    return _ROLES[role]
