"""JSON read strictly and piece by piece: a list of any length in the memory of its largest element.

What JSON forbids but can be read without guessing (NaN, a key twice in one object, bytes that are not UTF-8)
comes out as a value of its own kind, so that one bad record is refused and not the whole file. Broken syntax is
an error of the file: behind it, nothing says where the next record begins.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from instruct.core.errors import DataError

MAX_RECORD = 1 << 24
"""Characters of one record; what is longer is no record but a mistake."""
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
# An error this near to the end of what has been read may vanish with the next piece: `tru`, `\ud83d\ude`.
_TAIL = 16


class NotJson:
    """A token that Python reads and JSON does not have, such as NaN; `shown` is for messages."""

    def __init__(self, shown: str) -> None:
        self.shown = shown


class DoubledKeys(dict[str, Any]):
    """An object in which keys stand twice; `doubled` names them."""

    doubled: tuple[str, ...] = ()


class Element(NamedTuple):
    """One element of a list: its number from 0, the line from 1 on which it begins, and what it is."""

    number: int
    line: int
    value: Any


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    names = [name for name, _ in pairs]
    twice = DoubledKeys(values)
    twice.doubled = tuple(name for name in values if names.count(name) > 1)
    return twice


def _integer(digits: str) -> int | NotJson:
    # Python refuses to convert thousands of digits.
    return int(digits) if len(digits) <= 40 else NotJson(f"the number {digits[:20]}… of {len(digits)} digits")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=NotJson, parse_int=_integer)


def parse_json(text: str) -> Any:
    """One JSON document; raises ValueError that says what is wrong and at which character."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("nested too deeply to be a record") from None


def stream_list(file: BinaryIO, path: Path) -> Iterator[Element]:
    """The elements of a JSON list, one at a time; `path` is for messages.

    Raises DataError with file, line and column where the file is not JSON, and where it is no list.
    """
    window = _Window(file, path)
    if not (first := window.next_character()):
        raise DataError(f"{path}: the file is empty; a JSON document is needed")
    if first != "[":
        value = window.take_value()
        window.expect_end()
        raise DataError(f"{path}: must be a list of records, is {kind_of(value)}{_list_within(value)}")
    window.move(1)
    index = 0
    more = window.next_character() != "]"
    while more:
        line = window.line
        yield Element(index, line, window.take_value())
        index += 1
        mark = window.next_character()
        if mark not in (",", "]"):
            raise window.error("Expecting ',' delimiter", window.position)
        if more := mark == ",":
            window.move(1)
            window.next_character()
    window.move(1)
    window.expect_end()


def _list_within(value: Any) -> str:
    """Where the records may be, if an object holds them."""
    lists = [name for name, one in value.items() if isinstance(one, list)] if isinstance(value, dict) else []
    return f'; give what is in "{lists[0][:60]}" alone' if len(lists) == 1 else "; put records between [ and ]"


class _Window:
    """The part of a text that has been read and not yet been used, and its place in the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        # Bytes that are not UTF-8 become U+DC80 to U+DCFF, which no good record holds.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._ended = "", False
        self._offset = self._line_start = 0  # characters before the window; before the current line
        self.position, self.line = 0, 1

    def next_character(self) -> str:
        """Move over white space; the character there, or "" at the end."""
        while True:
            match = _SPACE.match(self._text, self.position)
            assert match
            self.move(match.end() - self.position)
            if self.position < len(self._text):
                return self._text[self.position]
            if not self._grow():
                return ""

    def take_value(self) -> Any:
        """Read the JSON value that begins here and move behind it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.position)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _TAIL
                if unfinished and self._grow():
                    continue
                raise self.error(error.msg, error.pos) from None
            except RecursionError:
                raise DataError(f"{self._path}:{self.line}: nested too deeply to be a data file") from None
            # A number that ends with the window may go on behind it.
            if end < len(self._text) or not self._grow():
                self.move(end - self.position)
                return value

    def expect_end(self) -> None:
        """Raise DataError unless only white space is left."""
        if self.next_character():
            raise self.error("Extra data", self.position)

    def move(self, count: int) -> None:
        """Use up `count` characters."""
        end = self.position + count
        breaks = self._text.count("\n", self.position, end)
        if breaks:
            self.line += breaks
            self._line_start = self._offset + self._text.rindex("\n", self.position, end) + 1
        self.position = end

    def error(self, message: str, position: int) -> DataError:
        """Not JSON: what is wrong, with line and column of a position at or behind this one."""
        end = self._text.rstrip()
        cut = self._ended and message != "Extra data" and (position >= len(end) or not end.endswith("]"))
        self.move(position - self.position)
        column = self._offset + position - self._line_start + 1
        hint = "the file looks cut off; copy or download it again" if cut else "correct the file at this place"
        return DataError(f"{self._path}:{self.line}:{column}: not JSON ({message}); {hint}")

    def _grow(self) -> bool:
        """Read as much again as is waiting, so that a long value is not parsed anew for each piece."""
        if self._ended:
            return False
        rest = self._text[self.position :]
        if len(rest) > MAX_RECORD:
            raise DataError(
                f"{self._path}:{self.line}: a record of more than {MAX_RECORD:,} characters; is a quote not closed?"
            )
        piece = self._file.read(max(_CHUNK, len(rest)))
        self._ended = not piece
        self._offset += self.position
        self._text = rest + self._decoder.decode(piece, final=self._ended)
        self.position = 0
        return True


def kind_of(value: Any) -> str:
    """What a decoded value is, in words for messages."""
    if isinstance(value, NotJson):
        return value.shown
    if type(value) in (int, float):
        return f"the number {value}"
    if isinstance(value, dict):
        return "an object"
    return {list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "of another kind")
