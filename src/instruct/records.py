"""The records of every data file: what they hold, and how they are read strictly and written the same each time.

`Example` is one record of the data set. Its id is the file's own, or else made from its content, so that it
stays the same when other records come or go.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from instruct.errors import DataError
from instruct.files import read_json, write_json
from instruct.params import did_you_mean

REQUIRED = ("instruction", "input", "output")
OPTIONAL = ("id", "kind", "group", "origin", "parent")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One record: an instruction, its input (may be empty), and the reference answer `output`.

    `group` is shared by near-duplicates. A record made from another names how (`origin`) and from which (`parent`).
    """

    id: str
    instruction: str
    input: str
    output: str
    kind: str = ""
    group: str = ""
    origin: str = ""
    parent: str = ""


@dataclass(frozen=True, kw_only=True)
class Response(Example):
    """An example and what one model answered; token counts leave the end-of-text token out.

    `truncated_tokens` were cut out of a prompt that was too long. `samples` are all answers where several were
    asked for, and `response` is then the one that most agree with.
    """

    response: str
    stop_reason: str
    prompt_tokens: int
    response_tokens: int
    truncated_tokens: int = 0
    samples: tuple[str, ...] = ()


def read_examples(path: Path) -> list[Example]:
    """Read a JSON list of records and validate every one of them.

    Raises DataError that lists each bad record with file, index, field and remedy.
    """
    examples, problems = check_examples(path)
    if problems:
        raise DataError("\n".join(line for lines in problems.values() for line in lines))
    return examples


def check_examples(path: Path) -> tuple[list[Example], dict[int, list[str]]]:
    """The good records of a file, and for each bad one its index and what is wrong, ready to print.

    Raises DataError only where the file as a whole is no list of records.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: must be a list of records, is {_kind_of(rows)}")
    if not rows:
        raise DataError(f"{path}: holds no records")
    problems = {i: [f"{path}[{i}]: {problem}" for problem in find_problems(row)] for i, row in enumerate(rows)}
    problems = {i: lines for i, lines in problems.items() if lines}
    good = {i: row for i, row in enumerate(rows) if i not in problems}
    first: dict[str, int] = {}
    examples = []
    for (i, row), id_ in zip(good.items(), make_ids(list(good.values())), strict=True):
        if id_ in first:
            problems[i] = [f'{path}[{i}]: "id" {id_} is also that of record {first[id_]}; ids must differ']
            continue
        first[id_] = i
        examples.append(Example(**{**row, "id": id_}))
    return examples, dict(sorted(problems.items()))


def find_problems(row: Any) -> list[str]:
    """What is wrong with one raw record, each as `field, what, what to do`; empty for a good one."""
    if not isinstance(row, dict):
        return [f"must be an object with {', '.join(REQUIRED)}, is {_kind_of(row)}"]
    problems = []
    for name in REQUIRED:
        if name not in row:
            problems.append(f'"{name}" is missing; add it' + (' (it may be "")' if name == "input" else ""))
        elif not isinstance(row[name], str):
            problems.append(f'"{name}" must be text, is {_kind_of(row[name])}')
        elif name != "input" and not row[name].strip():
            problems.append(f'"{name}" is empty; fill it or drop the record')
        elif _lone_surrogate(row[name]):
            problems.append(f'"{name}" holds half of a surrogate pair; correct the \\u escape')
    for name in OPTIONAL:
        if name in row and not isinstance(row[name], str):
            problems.append(f'"{name}" must be text, is {_kind_of(row[name])}')
        elif name == "id" and name in row and not row["id"].strip():
            problems.append('"id" is empty; fill it, or leave it out to have one made')
        elif name in row and _lone_surrogate(row[name]):
            problems.append(f'"{name}" holds half of a surrogate pair; correct the \\u escape')
    for name in row:
        if name not in REQUIRED + OPTIONAL:
            problems.append(f'"{name}" is not a field of a record{did_you_mean(name, REQUIRED + OPTIONAL)}')
    return problems


def make_ids(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Each record's own id, or 12 hexadecimal digits of the sha256 of its content.

    Records that are equal to the letter get `-2`, `-3` and so on behind the first one's id.
    """
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        if "id" in row:
            ids.append(row["id"])
            continue
        text = "\x1f".join(row[name] for name in REQUIRED)
        digest = sha256(text.encode("utf-8")).hexdigest()[:12]
        seen[digest] += 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return f"the number {value}" if type(value) in (int, float) else names.get(type(value), "of another kind")


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write dataclass records as a JSON list."""
    write_json(path, [asdict(record) for record in records])


def read_responses(path: Path) -> list[Response]:
    """Read what `generate` wrote; raises DataError where the file is not of this shape."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(_is_response(row) for row in rows):
        raise DataError(f"{path}: is not a file of responses; run `dvc repro generate`")
    return [Response(**{**row, "samples": tuple(row["samples"])}) for row in rows]


def _is_response(row: Any) -> bool:
    kinds = {"prompt_tokens": int, "response_tokens": int, "truncated_tokens": int, "samples": list}
    names = {field.name for field in fields(Response)}
    return (
        isinstance(row, dict)
        and set(row) == names
        and all(isinstance(row[name], kinds.get(name, str)) for name in names)
    )
