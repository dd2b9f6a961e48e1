"""Recognises the layouts of common data sets, and names the settings that read them."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from instruct.core.json_stream import kind_of
from instruct.core.records import CHAT, OPTIONAL, shown

_CHATS = ("messages", "conversations", "conversation")
_KEYS = {("role", "content"): "OpenAI messages", ("from", "value"): "ShareGPT"}
_QUESTIONS = ("instruction", "prompt", "question", "query")
_INPUTS = ("input", "context")
_ANSWERS = ("output", "completion", "response", "answer")
_ABOUT = ("id", "kind", "group", "check")
LOSSES = {
    "system_prompt": "rename it to system to keep it",
    "history": "put its turns into the messages",
}
"""What to do with columns of a chat that no setting reads; without it their content is lost."""
# What Hydra reads as a text without quotes, except words that it reads as another value.
_PLAIN, _NO_TEXT = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*"), ("null", "true", "false", "nan", "inf")
# How a list of objects begins as a text, in JSON or as Python prints it.
_BEGINS = re.compile(r"""\s*\[\s*\{\s*(["'])(.*?)\1\s*:""")
# A record of self-instruct becomes several of ours, which no setting can do.
_FLATTEN = ".instruction as $i | .instances[] | {instruction: $i, input, output}"
# jq reads no Parquet.
_AS_LINES = (
    "python -c 'import json, pyarrow.parquet as p; "
    '[print(json.dumps(row, default=str)) for row in p.read_table("IN.parquet").to_pylist()]\' > IN.jsonl && '
)


def chat_names(row: Mapping[str, Any]) -> dict[str, str] | None:
    """The columns of a chat in a usual layout: messages, role and content; None if the record has none."""
    for column in _CHATS:
        for role, content in _KEYS:
            if holds_messages(row.get(column), role, content):
                return {"messages": column, "role": role, "content": content}
    return None


def holds_messages(value: Any, role: str, content: str) -> bool:
    """Whether a value is a list of messages with these keys, or looks like the text of one, as cells of tables are.

    >>> holds_messages('[{"role": "user", "content": "Hi"}]', "role", "content")
    True
    """
    if isinstance(value, str):
        begun = _BEGINS.match(value)
        return bool(begun and begun[2] in (role, content) and value.rstrip().endswith("]"))
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and role in first and content in first


def layout_hint(row: Mapping[str, Any], columns: Mapping[str, str], *, table: bool = False) -> str:
    """What a record that `columns` do not fit looks like, and what to do; empty if it is unknown.

    `columns` are the settings of `split.columns` by name. The only `table` with lists and objects is Parquet.
    """
    if {"chosen", "rejected"} <= set(row):
        return (
            'holds preference pairs ("chosen", "rejected"), which train a DPO model and not an SFT model; name the '
            "file in pairs.file, and give split.data one answer to each question"
        )
    if isinstance(row.get("instances"), list):
        command = _flattened(_FLATTEN, table=table)
        return f"looks like self-instruct, whose records hold several instances; write one record each: `{command}`"
    if chat := chat_names(row):
        name = _KEYS[chat["role"], chat["content"]]
        return _settings(name, {"layout": "chat", **chat}, row, columns)
    question, given, answer = (_first(row, names) for names in (_QUESTIONS, _INPUTS, _ANSWERS))
    if not question and not answer and (name := _records_within(row)):
        return f'holds a list of records; keep only the list in "{shown(name)}"'
    if not question and not answer and (name := _nested_in(row)):
        command = _flattened(f".[{json.dumps(name)}]", table=table)
        return f'has its fields inside "{shown(name)}"; flatten them first: `{command}`'
    if question and answer and not _is_said(row[answer]):
        return f'"{shown(answer)}" must be text, is {kind_of(row[answer])}; write each answer as a text'
    texts = [name for name in _texts(row, columns) if name.isprintable()]
    # A record with our own name for the question lacks its answer.
    own = question in (columns["instruction"], columns["prompt"])
    if len(texts) == 2 and not (question and answer) and not own and not (question and given):
        if texts[0] == answer or texts[1] == question:
            texts.reverse()
        wanted = {"layout": "prompt", "prompt": texts[0], "completion": texts[1]}
        return _settings("two columns of text, a question and its answer", wanted, row, columns)
    if not question or not answer:
        return ""
    if given:
        wanted = {"layout": "alpaca", "instruction": question, "input": given, "output": answer}
        return _settings("Alpaca", wanted, row, columns)
    wanted = {"layout": "prompt", "prompt": question, "completion": answer}
    return _settings("a question and its answer", wanted, row, columns)


def _flattened(jq: str, *, table: bool) -> str:
    """The command that writes the records of a list or of lines through a filter of jq."""
    return f"{_AS_LINES if table else ''}jq -c {shlex.quote(f'(arrays[], objects) | {jq}')} IN.jsonl > OUT.jsonl"


def _is_said(value: Any) -> bool:
    return isinstance(value, str) or any(holds_messages(value, *keys) for keys in _KEYS)


def _records_within(row: Mapping[str, Any]) -> str:
    """The column with the only list, if its first element looks like a record; else empty."""
    lists = [name for name, value in row.items() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 and row[lists[0]] and _is_record(row[lists[0]][0]) else ""


def _nested_in(row: Mapping[str, Any]) -> str:
    """The first column with an object that looks like a record; else empty."""
    return next((name for name, value in row.items() if _is_record(value)), "")


def _is_record(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(
        chat_names(value) or (_first(value, _QUESTIONS) and _first(value, _ANSWERS))
    )


def _texts(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """The columns with texts of any name, in the order of the file, without those that describe the record."""
    about = {*OPTIONAL, *CHAT, *LOSSES, *(columns[one] for one in _ABOUT)}
    return [name for name, value in row.items() if isinstance(value, str) and name not in about]


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The column with the first of these names, in upper or lower case."""
    columns = {column.lower(): column for column in reversed(list(row))}
    return next((columns[name] for name in names if name in columns), None)


def _settings(name: str, wanted: Mapping[str, str], row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """The line that names the settings to change, as `dvc exp run` takes them."""
    known = {*wanted.values(), *CHAT, *LOSSES, *(columns[one] for one in _ABOUT)}
    others = {} if known.issuperset(row) else {"others": "ignore"}
    changed = {key: value for key, value in {**wanted, **others}.items() if columns[key] != value}
    line = overrides({f"split.columns.{key}": value for key, value in changed.items()})
    renamed = f'"system_prompt": {LOSSES["system_prompt"]}; ' if "system_prompt" in row else ""
    return f"looks like {name}; {renamed}set these in params.yaml, or add `{line}` to `dvc exp run`"


def overrides(settings: Mapping[str, str]) -> str:
    """Settings with a text each, as options of `dvc exp run`.

    >>> print(overrides({"split.columns.prompt": "question", "split.columns.completion": "1"}))
    -S split.columns.prompt=question -S 'split.columns.completion="1"'
    """
    return " ".join(f"-S {shlex.quote(f'{name}={_override(value)}')}" for name, value in settings.items())


def _override(value: str) -> str:
    """A text in the grammar of Hydra, by which DVC reads `-S`: whatever may not be a plain word is in quotes."""
    if not value or (_PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT):
        return value
    # There a backslash is itself, except in front of a quote.
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), value)
    return f'"{escaped}"'
