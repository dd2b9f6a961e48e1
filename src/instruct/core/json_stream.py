"""Reads JSON strictly and in pieces: a list of any length takes the memory of its largest element.

Content that JSON forbids but that can be read without guessing (NaN, a duplicate key, bytes that are not UTF-8)
becomes a value of a special type, so that one bad record is refused instead of the whole file. Broken syntax is an
error of the whole file, because it hides where the next record starts.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from instruct.core.errors import DataError

MAX_RECORD = 1 << 24
"""The most characters of one record; longer text is a mistake, not a record."""
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
# An error this close to the end of the text read so far may vanish with the next piece: `tru`, `\ud83d\ude`.
_TAIL = 16


class NotJson:
    """A token that Python reads but JSON forbids, such as NaN; `shown` is for messages."""

    def __init__(self, shown: str) -> None:
        self.shown = shown


class DoubledKeys(dict[str, Any]):
    """An object with duplicate keys; `doubled` names them."""

    doubled: tuple[str, ...] = ()


class Element(NamedTuple):
    """One element of a list: its index from 0, its first line from 1, and its value."""

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
    """One JSON document; raises ValueError with the problem and its character."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("nested too deeply to be a record") from None


def stream_list(file: BinaryIO, path: Path) -> Iterator[Element]:
    """The elements of a JSON list, one at a time; `path` is for messages.

    Raises DataError with file, line and column if the file is not JSON or not a list.
    """
    window = _Window(file, path)
    if not (first := window.next_character()):
        raise DataError(f"{path}: the file is empty; it must be a JSON document")
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
    """A hint at the list that may hold the records."""
    lists = [name for name, one in value.items() if isinstance(one, list)] if isinstance(value, dict) else []
    return f'; keep only the list in "{lists[0][:60]}"' if len(lists) == 1 else "; put records between [ and ]"


class _Window:
    """The part of a text that was read but not yet used, and its place in the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        # Bytes that are not UTF-8 become U+DC80 to U+DCFF, which no valid record contains.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._ended = "", False
        self._offset = self._line_start = 0  # characters before the window; before the current line
        self.position, self.line = 0, 1

    def next_character(self) -> str:
        """Skip white space; returns the next character, or "" at the end."""
        while True:
            match = _SPACE.match(self._text, self.position)
            assert match
            self.move(match.end() - self.position)
            if self.position < len(self._text):
                return self._text[self.position]
            if not self._grow():
                return ""

    def take_value(self) -> Any:
        """Read the JSON value that starts here and move past it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.position)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _TAIL
                if unfinished and self._grow():
                    continue
                raise self.error(error.msg, error.pos) from None
            except RecursionError:
                raise DataError(f"{self._path}:{self.line}: nested too deeply for a data file; correct it") from None
            # A number that ends with the window may continue after it.
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
        """A DataError for invalid JSON, with line and column of a position at or after this one."""
        end = self._text.rstrip()
        cut = self._ended and message != "Extra data" and (position >= len(end) or not end.endswith("]"))
        self.move(position - self.position)
        column = self._offset + position - self._line_start + 1
        hint = "the file looks cut off; copy or download it again" if cut else "correct the file at this place"
        return DataError(f"{self._path}:{self.line}:{column}: not JSON ({message}); {hint}")

    def _grow(self) -> bool:
        """Double the window, so that a long value is not parsed again for each piece."""
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
    """The kind of a decoded value, in words for messages."""
    if isinstance(value, NotJson):
        return value.shown
    if type(value) in (int, float):
        return f"the number {value}"
    if isinstance(value, dict):
        return "an object"
    return {list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "of another kind")
