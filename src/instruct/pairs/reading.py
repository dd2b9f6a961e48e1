r"""Preference pairs from a file in any of the usual forms.

{"instruction": ..., "input": ..., "chosen": ..., "rejected": ...}     our own fields, and the chat page's
{"prompt": "...", "chosen": "...", "rejected": "..."}                  texts
{"prompt": [messages], "chosen": [messages], "rejected": [messages]}   messages; the prompt may be in both answers
{"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}          transcripts (HH-RLHF), prompt inside both

In UltraFeedback_binarized `prompt` is a text, and both answers are chats that hold it. Files are read as those of
records are (`formats/`), so the same formats, compressions and messages count here.
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
from instruct.core.records import CHAT, OPTIONAL, BadRecord, Ids, doubled_keys, find_problems, group_lines
from instruct.formats.chat import ChatColumns, read_messages
from instruct.formats.columns import tidy
from instruct.formats.rows import raw_rows

SIDES = ("chosen", "rejected")
_CHAT = ChatColumns(role="role", content="content", system="keep", turns="all")
_OWN = ("instruction", "input", "prompt", *SIDES, *CHAT, *OPTIONAL)
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
            self.others.update(name for name in raw.value if name not in _OWN)
            yield Pair(**vars(row), rejected=values["rejected"])


def read_file(path: Path, *, drop: bool) -> tuple[list[Pair], int, Counter[str]]:
    """The pairs of a file, how many bad records were dropped, and the columns that were not used.

    Raises DataError that names each bad record, its field and the remedy, unless they are to be dropped.
    """
    rows = PairRows(path)
    pairs, bad = list[Pair](), list[BadRecord]()
    for row in rows:
        if isinstance(row, BadRecord):
            bad.append(row)
        else:
            pairs.append(row)
    if bad and not drop:
        lines = group_lines([line for record in bad for line in record.lines()])
        raise DataError("\n".join([*lines, f"{path}: correct them, or set pairs.invalid: drop"]))
    if not pairs:
        raise DataError(f"{path}: holds no pairs; add some, or choose another pairs.source or pairs.file")
    return pairs, len(bad), rows.others


def read_pair(row: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields of a pair from one raw record, and what is wrong with it, each as `field, what, what to do`."""
    if not isinstance(row, dict):
        return {}, [f"must be an object with prompt, chosen and rejected, is {kind_of(row)}"]
    problems = doubled_keys(row)
    row = {name: value for name, value in row.items() if value is not None}
    missing = [f'"{name}" is missing; add it' for name in SIDES if name not in row]
    if missing:
        return {}, problems + missing
    try:
        chosen, rejected = (_side(row, side) for side in SIDES)
    except ValueError as error:
        return {}, [*problems, str(error)]
    problems += _problems(chosen, "chosen") + [one for one in _problems(rejected, "rejected") if "rejected" in one]
    own = tidy({name: row[name] for name in OPTIONAL if name in row})
    values = tidy({**own, **chosen.values})
    problems += [one for one in find_problems({**_GOOD, **own}) if one not in problems]
    other = tidy(dict(rejected.values))
    if not problems and {**values, "output": ""} != {**own, **other, "output": ""}:
        problems.append('"rejected" answers another prompt than "chosen"; a pair has one prompt')
    return {**values, "rejected": other.get("output")}, problems


_GOOD = {"instruction": "x", "input": "", "output": "x"}


@dataclass(frozen=True)
class _Side:
    """A record with one of the two answers, and the names that the file has for its fields."""

    values: Mapping[str, Any]
    called: Mapping[str, str]


def _problems(side: _Side, name: str) -> list[str]:
    return find_problems(tidy(dict(side.values)), {"output": name, **side.called})


def _side(row: Mapping[str, Any], side: str) -> _Side:
    """The record with the answer in `row[side]`; raises ValueError where there is no way to tell its prompt."""
    prompt, answer = row.get("prompt"), row[side]
    if "instruction" in row:
        values = {"instruction": row["instruction"], "input": row.get("input", ""), "output": answer}
        return _Side({**values, **{name: row[name] for name in CHAT if row.get(name)}}, {})
    if isinstance(answer, list):
        return _messages([*(prompt if isinstance(prompt, list) and not _has_user(answer) else []), *answer], side)
    if isinstance(prompt, list):
        return _messages([*prompt, {"role": "assistant", "content": answer}], side)
    if isinstance(answer, str) and _BEGINS.match(prompt if isinstance(prompt, str) else answer):
        return _messages(_transcript(_joined(prompt, answer), side), side)
    if prompt is None:
        raise ValueError('"prompt" is missing; add it, or an "instruction"')
    return _Side({"instruction": prompt, "input": "", "output": answer}, {"instruction": "prompt"})


def _has_user(messages: list[Any]) -> bool:
    """Whether the prompt is inside: an answer alone begins with the assistant."""
    return any(isinstance(one, Mapping) and one.get("role") in ("user", "human") for one in messages)


def _messages(messages: list[Any], side: str) -> _Side:
    found = read_messages(messages, _CHAT, side)
    return _Side(found.values, {**found.called, "output": side})


def _joined(prompt: Any, answer: str) -> str:
    """The whole transcript: the prompt may be inside the answer, before it, or not given at all."""
    if not isinstance(prompt, str) or _BEGINS.match(answer):
        return answer
    return f"{prompt.rstrip()} {answer.lstrip()}"


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
