"""The records of every data file: their fields, a strict reader, and a writer that gives the same bytes each time.

`Example` is one record of the data set. Its id comes from the file or else from its content, so that it stays the
same if other records are added or removed.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from instruct.core.errors import DataError
from instruct.core.files import read_json, readable, write_json_list
from instruct.core.json_stream import DoubledKeys, kind_of, stream_list
from instruct.core.params import did_you_mean

REQUIRED = ("instruction", "input", "output")
OPTIONAL = ("id", "kind", "group", "origin", "parent")
CHAT = ("system", "history")
FIELDS = REQUIRED + OPTIONAL + CHAT
NOT_UTF8 = "which is not UTF-8"
_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGEST = re.compile("[0-9a-f]{12}")
_MANY = 8
# The parts in which two problems of one kind differ: numbers, bytes, and text in round brackets.
_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+|\(.*?\)")
_ALIKE, _LISTED = 5, 100


class Turn(NamedTuple):
    """One turn of a chat: the instruction, its input (may be empty), and the answer."""

    instruction: str
    input: str = ""
    output: str = ""

    @property
    def question(self) -> str:
        """The instruction, and its input on a line below it."""
        return "\n".join(part for part in (self.instruction, self.input) if part)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One record: an instruction, its input (may be empty), and the reference answer `output`.

    These are the last turn of a chat; `history` holds the turns before it, and `system` its system prompt.
    Near-duplicates share a `group`. An augmented record names the method (`origin`) and its source (`parent`).
    """

    id: str
    instruction: str
    input: str
    output: str
    kind: str = ""
    group: str = ""
    origin: str = ""
    parent: str = ""
    system: str = ""
    history: tuple[Turn, ...] = ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns of the chat; a record with one question is a chat of one turn."""
        return (*self.history, Turn(self.instruction, self.input, self.output))

    def answered(
        self, response: str, stop_reason: str = "", prompt_tokens: int = 0, response_tokens: int = 0
    ) -> "Response":
        """This record with an answer, by default one that no model gave."""
        return Response(
            **vars(self),
            response=response,
            stop_reason=stop_reason,
            prompt_tokens=prompt_tokens,
            response_tokens=response_tokens,
        )


def earlier_turns(record: Example) -> list[tuple[str, str]]:
    """Who said what before the last question, in order; empty for a record of one question."""
    said = [("system", record.system)] if record.system else []
    for turn in record.history:
        said += [("user", turn.question), ("assistant", turn.output)]
    return said


def with_earlier(record: Example, question: str) -> str:
    """The question behind what was said before it and by whom; the question alone if nothing was."""
    if not (earlier := earlier_turns(record)):
        return question
    return "\n\n".join(f"{who}: {said}" for who, said in [*earlier, ("user", question)])


def last_question(record: Example) -> str:
    """The last question with its input, without blanks around it."""
    return record.turns[-1].question.strip()


def whole_question(record: Example) -> str:
    """The last question with its input, behind what was said before it."""
    return with_earlier(record, last_question(record))


E = TypeVar("E", bound=Example)


@dataclass(frozen=True, kw_only=True)
class Response(Example):
    """An example and one model's answer; token counts exclude the end-of-text token.

    `truncated_tokens` were cut out of a prompt that was too long. `samples` are all answers if several were
    requested, and `response` is then the most common one.
    """

    response: str
    stop_reason: str
    prompt_tokens: int
    response_tokens: int
    truncated_tokens: int = 0
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """A record that cannot be used: its index in the file from 0, its place, and its problems."""

    index: int
    where: str
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        return [f"{self.where}: {problem}" for problem in self.problems]


def read_examples(path: Path) -> list[Example]:
    """Read a JSON list of records and validate every one of them.

    Raises DataError that lists each bad record with file, index, field and remedy.
    """
    examples, problems = check_examples(path)
    if problems:
        raise DataError("\n".join(problem_lines(problems)))
    return examples


def check_examples(path: Path) -> tuple[list[Example], dict[int, list[str]]]:
    """The good records of a JSON list, and for each bad one its index and its problems, ready to print.

    Raises DataError only if the file as a whole is not a list of records.
    """
    return part_rows(stream_examples(path))


def part_rows(rows: Iterable[E | BadRecord]) -> tuple[list[E], dict[int, list[str]]]:
    """The good records, and for each bad one its index and its lines."""
    examples, problems = [], {}
    for row in rows:
        if isinstance(row, BadRecord):
            problems[row.index] = row.lines()
        else:
            examples.append(row)
    return examples, problems


def problem_lines(bad: Mapping[int, Sequence[str]]) -> list[str]:
    """The problems of bad records, by index as `check_examples` finds them, as they are printed."""
    return group_lines([line for lines in bad.values() for line in lines])


def group_lines(lines: Sequence[str]) -> list[str]:
    """The first lines of each kind of problem, and the number of further ones."""
    kinds: dict[str, int] = {}
    last: dict[str, str] = {}
    shown = []
    for line in lines:
        kind = _VARIABLE.sub("#", line)
        kinds[kind] = kinds.get(kind, 0) + 1
        last[kind] = line
        if kinds[kind] <= _ALIKE:
            shown.append(line)
    rest = [f"{last[kind]} ({kinds[kind] - _ALIKE} more like this)" for kind in kinds if kinds[kind] > _ALIKE]
    cut = [f"({len(shown) - _LISTED} more lines of other kinds)"] if len(shown) > _LISTED else []
    return shown[:_LISTED] + rest[:_LISTED] + cut


def stream_examples(path: Path) -> Iterator[Example | BadRecord]:
    """The records of a JSON list, one at a time; raises DataError as `check_examples` does."""
    ids = Ids()
    index = -1
    with readable(path), path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        for index, line, value in stream_list(file, path):
            yield ids.row(index, element_place(path, index, line), value, find_problems(value))
    if index < 0:
        raise DataError(f"{path}: holds no records; add at least one")


def element_place(path: Path, index: int, line: int) -> str:
    """The place of a list element; a file with a single line needs no line number."""
    return f"{path}[{index}]" if line == 1 else f"{path}[{index}], line {line}"


def find_problems(row: Any, called: Mapping[str, str] | None = None) -> list[str]:
    """The problems of one raw record, each as `field, what, what to do`; empty for a good one.

    `called` maps fields to their names in the file, if those differ.
    """
    if not isinstance(row, dict):
        return [f"must be an object with {', '.join(REQUIRED)}, is {kind_of(row)}"]
    called = called or {}
    problems = doubled_keys(row)
    problems += _turn_problems(row, {name: called.get(name, name) for name in REQUIRED})
    for name in OPTIONAL:
        if name in row and (problem := _text_problem(row[name])):
            problems.append(f'"{called.get(name, name)}" {problem}')
        elif name == "id" and name in row and not row["id"].strip():
            problems.append(f'"{called.get(name, name)}" is empty; fill it, or leave it out to have one made')
    problems += _chat_problems(row, called)
    return problems + unknown_fields([name for name in row if name not in FIELDS], FIELDS)


def _turn_problems(row: Mapping[str, Any], called: Mapping[str, str]) -> list[str]:
    """The problems of instruction, input and output, which the file names as in `called`."""
    problems = []
    for name in REQUIRED:
        if name not in row:
            hint = ' (it may be "")' if name == "input" else ""
            problems.append(f'"{called[name]}" is missing; add it{hint}')
        elif problem := _text_problem(row[name]):
            problems.append(f'"{called[name]}" {problem}')
        elif name != "input" and not row[name].strip():
            problems.append(f'"{called[name]}" is empty; fill it or drop the record')
    return problems


def _chat_problems(row: Mapping[str, Any], called: Mapping[str, str]) -> list[str]:
    """The problems of the system prompt and of the turns before the last one, if a record has them."""
    problems = []
    if "system" in row:
        label = called.get("system", "system")
        if problem := _text_problem(row["system"]):
            problems.append(f'"{label}" {problem}')
        elif not row["system"].strip():
            problems.append(f'"{label}" is empty; fill it or leave it out')
    history = row.get("history", [])
    if not isinstance(history, list):
        return [*problems, f'"history" must be a list of turns, is {kind_of(history)}']
    for place, turn in enumerate(history):
        where = f"history[{place}]"
        if not isinstance(turn, dict):
            problems.append(f'"{where}" must be an object with {", ".join(REQUIRED)}, is {kind_of(turn)}')
            continue
        problems += [f"in {where} {problem}" for problem in doubled_keys(turn)]
        problems += _turn_problems(turn, {name: called.get(f"{where}.{name}", f"{where}.{name}") for name in REQUIRED})
        others = [name for name in turn if name not in REQUIRED]
        problems += [
            f'"{where}" has the field "{shown(name)}", which a turn does not have; remove it' for name in others[:_MANY]
        ]
    return problems


def as_turns(history: Iterable[Mapping[str, str]]) -> tuple[Turn, ...]:
    """The turns of a raw record in which `find_problems` found no problem."""
    return tuple(Turn(**turn) for turn in history)


def doubled_keys(row: Mapping[str, Any]) -> list[str]:
    """A problem for each key that appears twice in an object."""
    names = row.doubled if isinstance(row, DoubledKeys) else ()
    return [f'"{shown(name)}" appears twice in one object; remove one' for name in names[:_MANY]]


def unknown_fields(names: Sequence[str], known: Iterable[str]) -> list[str]:
    """A problem for each unknown field, and one for the rest if there are many."""
    problems = [f'"{shown(name)}" is not a field of a record{did_you_mean(name[:60], known)}' for name in names[:_MANY]]
    return problems + ([f"{len(names) - _MANY} more are not fields of a record"] if len(names) > _MANY else [])


def _text_problem(value: Any) -> str:
    if not isinstance(value, str):
        return f"must be text, is {kind_of(value)}"
    if value.isascii() or not (found := _SURROGATE.search(value)):
        return ""
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"holds the byte 0x{code - 0xDC00:02x}, {NOT_UTF8} (or half of a surrogate pair); correct it"
    return "holds half of a surrogate pair; correct the \\u escape"


def shown(text: str) -> str:
    """A piece of a user's text that any terminal can print: short, with unprintable characters escaped."""
    short = text if len(text) <= 60 else text[:59] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


class Ids:
    """Gives each record its id and refuses a duplicate; it keeps one number per record."""

    def __init__(self) -> None:
        self._first: dict[int | str, int] = {}
        self._made: set[int] = set()
        self._repeats: Counter[int] = Counter()

    def row(self, index: int, where: str, values: Any, problems: Sequence[str]) -> Example | BadRecord:
        """One raw record and its problems, as an Example or a BadRecord."""
        if problems:
            return BadRecord(index=index, where=where, problems=tuple(problems))
        id_ = self.make(values)
        # Twelve digits as a number take half the memory; a record's own id of this form maps to the same key.
        first = self._first.setdefault(int(id_, 16) if _DIGEST.fullmatch(id_) else id_, index)
        if first != index:
            problem = f'"id" is also that of record {first} ({shown(id_)}); ids must differ'
            return BadRecord(index=index, where=where, problems=(problem,))
        return Example(**{**values, "id": id_, "history": as_turns(values.get("history", ()))})

    def make(self, values: Mapping[str, Any]) -> str:
        """A record's own id, or 12 hexadecimal digits of the sha256 of its content.

        Identical records get the first one's id followed by `-2`, `-3` and so on.
        """
        if "id" in values:
            return str(values["id"])
        said = [turn[name] for turn in values.get("history", ()) for name in REQUIRED]
        system = [values["system"]] if "system" in values else []
        text = "\x1f".join([*system, *said, *(values[name] for name in REQUIRED)])
        digest = sha256(text.encode("utf-8")).hexdigest()[:12]
        number = int(digest, 16)
        if number not in self._made:
            self._made.add(number)
            return digest
        self._repeats[number] += 1
        return f"{digest}-{self._repeats[number] + 1}"


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write dataclass records as a JSON list, one at a time."""
    write_json_list(path, map(as_row, records))


def as_row(record: Any) -> dict[str, Any]:
    """The fields of a record as a file holds them: system prompt and history only if the record has them."""
    row = asdict(record)
    if isinstance(record, Example):
        row["history"] = [turn._asdict() for turn in record.history]
        row = {name: value for name, value in row.items() if value or name not in CHAT}
    return row


def read_responses(path: Path) -> list[Response]:
    """Read the output of `generate`; raises DataError if the file has another shape."""
    return read_written(path, Response, "responses; run `dvc repro generate`")


def read_written(path: Path, cls: type[E], what: str) -> list[E]:
    """Read the records that `write_records` wrote; raises DataError that says `what` the file is not."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(_is_written(row, {field.name for field in fields(cls)}) for row in rows):
        raise DataError(f"{path}: is not a file of {what}")
    records = []
    for row in rows:
        samples = {"samples": tuple(row["samples"])} if "samples" in row else {}
        records.append(cls(**{**row, **samples, "history": as_turns(row.get("history", ()))}))
    return records


def _is_written(row: Any, names: set[str]) -> bool:
    kinds = {"prompt_tokens": int, "response_tokens": int, "truncated_tokens": int, "samples": list, "history": list}
    return (
        isinstance(row, dict)
        and names - set(CHAT) <= set(row) <= names
        and all(isinstance(value, kinds.get(name, str)) for name, value in row.items())
        and not _chat_problems(row, {})
    )
