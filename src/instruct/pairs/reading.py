r"""Preference pairs from a file in any of the usual forms.

{"instruction": ..., "input": ..., "chosen": ..., "rejected": ...}     our own fields, and the chat page's
{"prompt": "...", "chosen": "...", "rejected": "..."}                  texts
{"prompt": [messages], "chosen": [messages], "rejected": [messages]}   messages; all or the end of the prompt may be
                                                                       in both answers too
{"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}          transcripts (HH-RLHF), prompt inside both

In UltraFeedback_binarized `prompt` is a text, and both answers are chats that hold it. A `system` column goes with all
forms, `input` and `history` with the first two. Files are read as those of records are (`formats/`): in the same
formats and compressions, with messages in OpenAI's or ShareGPT's names.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.json_stream import kind_of
from instruct.core.pairs import Pair
from instruct.core.records import CHAT, OPTIONAL, BadRecord, Ids, doubled_keys, find_problems, part_rows, problem_lines
from instruct.formats.chat import ChatColumns, read_messages
from instruct.formats.columns import tidy
from instruct.formats.layouts import chat_names
from instruct.formats.rows import raw_rows

SIDES = ("chosen", "rejected")
_OWN = ("input", *SIDES, *CHAT, *OPTIONAL)
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ \t]*")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_BEGINS = re.compile(r"\A\s*Human:")


@dataclass(frozen=True)
class PairRows:
    """The pairs of a file, good and bad, one at a time; `others` counts columns that are not used, by name."""

    path: Path
    others: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Pair | BadRecord]:
        self.others.clear()
        ids = Ids()
        for index, raw in enumerate(raw_rows(self.path)):
            values, problems = ({}, [raw.problem]) if raw.problem else read_pair(raw.value)
            row = ids.row(index, raw.where, {k: v for k, v in values.items() if k != "rejected"}, problems)
            if isinstance(row, BadRecord):
                yield row
                continue
            self.others.update(name for name in raw.value if name not in (_asked_in(raw.value), *_OWN))
            yield Pair(**vars(row), rejected=values["rejected"])


def read_file(path: Path, *, drop: bool) -> tuple[list[Pair], int, Counter[str]]:
    """The pairs of a file, how many bad records were dropped, and the columns that were not used.

    Raises DataError that names each bad record, its field and the remedy, unless they are to be dropped.
    """
    rows = PairRows(path)
    pairs, bad = part_rows(rows)
    if bad and not drop:
        raise DataError("\n".join([*problem_lines(bad), f"{path}: correct them, or set pairs.invalid: drop"]))
    if not pairs:
        raise DataError(f"{path}: holds no pairs; add some, or choose another pairs.source or pairs.file")
    return pairs, len(bad), rows.others


def read_pair(row: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields of a pair from one raw record, and what is wrong with it, each as `field, what, what to do`."""
    if not isinstance(row, dict):
        return {}, [f"must be an object with prompt, chosen and rejected, is {kind_of(row)}"]
    problems = doubled_keys(row)
    row = tidy({name: value for name, value in row.items() if value is not None})
    missing = [f'"{name}" is missing; add it' for name in SIDES if name not in row]
    if missing:
        return {}, problems + missing
    try:
        chosen, rejected = (_side(row, side) for side in SIDES)
    except ValueError as error:
        return {}, [*problems, str(error)]
    problems += _problems(chosen, "chosen") + [one for one in _problems(rejected, "rejected") if "rejected" in one]
    own = {name: row[name] for name in OPTIONAL if name in row}
    problems += [one for one in find_problems({**_GOOD, **own}) if one not in problems]
    if not problems and {**chosen.values, "output": ""} != {**rejected.values, "output": ""}:
        problems.append('"rejected" answers another prompt than "chosen"; a pair has one prompt')
    return {**own, **chosen.values, "rejected": rejected.values["output"]}, problems


_GOOD = {"instruction": "x", "input": "", "output": "x"}


@dataclass(frozen=True)
class _Side:
    """A record with one of the two answers, and the names that the file has for its fields."""

    values: dict[str, Any]
    called: Mapping[str, str]


def _problems(side: _Side, name: str) -> list[str]:
    return find_problems(side.values, {"output": name, **side.called})


def _asked_in(row: Mapping[str, Any]) -> str:
    """The column that the question is in, unless it is in the answers."""
    return "prompt" if row.get("instruction") is None else "instruction"


def _side(row: Mapping[str, Any], side: str) -> _Side:
    """The record with the answer in `row[side]`; raises ValueError where there is no way to tell its prompt."""
    question, answer = _asked_in(row), row[side]
    prompt = row.get(question)
    if question == "prompt":
        if isinstance(answer, list):
            return _chat(row, prompt, answer, side)
        if isinstance(prompt, list):
            return _chat(row, prompt, [_message(_columns(prompt), "assistant", answer)], side)
        if isinstance(answer, str) and _BEGINS.match(prompt if isinstance(prompt, str) else answer):
            return _chat(row, None, _transcript(_joined(prompt, answer), side), side)
        if prompt is None:
            raise ValueError('"prompt" is missing; add it, or an "instruction"')
    values = {"instruction": prompt, "input": row.get("input", ""), "output": answer}
    return _Side({**values, **{name: row[name] for name in CHAT if row.get(name)}}, {"instruction": question})


def _chat(row: Mapping[str, Any], prompt: Any, answer: list[Any], side: str) -> _Side:
    """The record of a chat; raises ValueError where a column says what the messages do not."""
    for name in ("input", "history"):
        if row.get(name):
            raise ValueError(f'"{name}" is given beside messages; put it into the messages of the prompt, or remove it')
    columns = _columns([*(prompt if isinstance(prompt, list) else []), *answer])
    messages = _whole(prompt, answer, columns)
    found = read_messages(messages, columns, side if len(messages) == len(answer) else f"prompt and {side}")
    given, said = row.get("system"), found.values.get("system")
    if given and said and given != said:
        raise ValueError(f'"system" differs from the system message in "{side}"; keep one of them')
    return _Side({**found.values, **({"system": given} if given else {})}, {**found.called, "output": side})


def _whole(prompt: Any, answer: list[Any], columns: ChatColumns) -> list[Any]:
    """All messages of a chat: the answer may begin with the prompt or its end, and hold a prompt that is a text."""
    if not prompt or not answer:
        return answer
    if isinstance(prompt, list):
        shared = max(i for i in range(len(answer)) if prompt[len(prompt) - i :] == answer[:i])
        return [*prompt, *answer[shared:]]
    said = [str(one.get(columns.content)).strip() for one in answer[:-1] if isinstance(one, Mapping)]
    return answer if str(prompt).strip() in said else [_message(columns, "user", prompt), *answer]


def _columns(messages: list[Any]) -> ChatColumns:
    """The names in which these messages have role and content."""
    names = chat_names({"messages": messages}) or {"role": "role", "content": "content"}
    return ChatColumns(role=names["role"], content=names["content"], system="keep", turns="all")


def _message(columns: ChatColumns, role: str, content: Any) -> dict[str, Any]:
    return {columns.role: role, columns.content: content}


def _joined(prompt: Any, answer: str) -> str:
    """The whole transcript: the prompt may be inside the answer, before it, or not given at all."""
    if not isinstance(prompt, str) or answer.lstrip().startswith(prompt.strip()):
        return answer
    between = "\n\n" if _BEGINS.match(answer) else " "
    return f"{prompt.rstrip()}{between}{answer.lstrip()}"


def _transcript(text: str, side: str) -> list[dict[str, str]]:
    """The messages of `Human: ... Assistant: ...`."""
    _, *parts = _SPEAKER.split(text)
    messages = [
        {"role": _ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if not messages:
        raise ValueError(f'"{side}" is a transcript in which nobody speaks; it must begin with Human:')
    return messages
