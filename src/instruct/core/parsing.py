"""Untrusted YAML and JSON to plain values; any error in a text is one line.

YAML is read as DVC reads it, in bounded time and memory. PyYAML's C parser turns the text into events, and this module
builds the values, because neither library's own builder fits: PyYAML follows YAML 1.1 (`1e-5` is text, `no` is
false); ruamel.yaml, which DVC uses, is pure Python and slow; and with both, ten lines of aliases fill the memory. The
parser refuses what no setting needs: dates, tags, NaN, whole numbers over 64 bits, duplicate keys.
"""

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from instruct.core.errors import DataError
from instruct.core.files import read_text, readable

LONGEST = 2_000_000  # characters: a dvc.lock of some ten thousand outputs
MOST_VALUES = 200_000  # an alias counts its values each time
DEEPEST = 100  # levels of lists and mappings; far more than our files have, far fewer than Python's recursion limit
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The plain scalars of YAML 1.2, with the expressions of ruamel.yaml, which DVC uses.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9_]+([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o[0-7_]+)|[-+][0-9_]+|[0-9][0-9_]*")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?"
    r"([ \t]*(Z|[-+][0-9]{1,2}(:[0-9]{2})?))?"
)
_BASES = {"0b": 2, "0o": 8, "0x": 16}
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_MERGE = object()  # the key `<<`


def read_yaml(path: Path) -> Any:
    """The value of a YAML file; raises DataError that names the file and the line."""
    with readable(path):
        if path.stat().st_size > 4 * LONGEST:
            raise DataError(f"{path}: is longer than {4 * LONGEST:,} bytes, the limit for a settings file; shorten it")
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML 1.2 text; raises DataError that begins with `where` and names the line."""
    if len(text) > LONGEST:
        raise DataError(f"{where}: is longer than {LONGEST:,} characters, the limit for a settings file; shorten it")
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        raise DataError(f"{where}{f':{mark.line + 1}' if mark else ''}: not YAML ({problem}); correct it") from None
    except UnicodeEncodeError:
        raise DataError(f"{where}: not YAML (half a surrogate pair); save it as UTF-8") from None
    except _Refused as error:
        raise DataError(f"{where}:{builder.line}: {error}") from None
    return builder.root.value


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; raises DataError that begins with `where`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}:{error.lineno}: not JSON ({error.msg}); run the stage that writes it") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({_words(error)}); run the stage that writes it") from None
    return _not_too_deep(value, where)


def mapping(value: Any) -> dict[str, Any]:
    """The value itself if it is a mapping; empty for anything else."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


class _Refused(Exception):
    """The problem with the current line, and what to do."""


@dataclass
class _Node:
    """A value, its number of values including itself, and its depth."""

    value: Any
    size: int = 1
    height: int = 0


@dataclass
class _Open:
    """A list or mapping that is still open."""

    node: _Node
    anchor: str | None
    key: list[Any] = field(default_factory=list)  # the key that waits for its value, if any
    merged: dict[Any, Any] | None = None  # the values that `<<` adds


class _Builder:
    """Builds values event by event, without recursion, so that no text can exhaust the stack."""

    def __init__(self) -> None:
        self.line, self.root = 1, _Node(None)
        self._count, self._documents = 0, 0
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node] = {}

    def take(self, event: yaml.Event) -> None:
        """Handle the parser's next event."""
        assert event.start_mark is not None, "PyYAML marks every event"
        self.line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._begin(event.version)
        elif isinstance(event, yaml.ScalarEvent):
            self._finish(_Node(_MERGE if self._is_merge(event) else _scalar(event)), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Refused(f"the alias *{event.anchor} refers to no finished value before it; write the value out")
            self._put(self._anchors[event.anchor])
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            _refuse_tag(event.tag)
            self._anchors.pop(event.anchor or "", None)
            self._open.append(_Open(_Node([] if isinstance(event, yaml.SequenceStartEvent) else {}), event.anchor))
            self._bound(len(self._open))
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self._close()

    def _begin(self, version: tuple[int, int] | None) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _Refused("a second document begins here; keep one")
        if version not in (None, (1, 2)):
            raise _Refused("asks for YAML before 1.2; remove the line %YAML")

    def _is_merge(self, event: yaml.ScalarEvent) -> bool:
        is_key = bool(self._open) and isinstance(self._open[-1].node.value, dict) and not self._open[-1].key
        return is_key and event.value == "<<" and event.implicit[0]

    def _close(self) -> None:
        done = self._open.pop()
        if done.merged:
            done.node.value = {**done.merged, **done.node.value}
        self._count -= done.node.size - 1  # its values were already counted
        self._finish(done.node, done.anchor)

    def _finish(self, node: _Node, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node
        self._put(node)

    def _put(self, node: _Node) -> None:
        """Put a finished value in its place."""
        if not self._open:
            self.root = node
            return
        place = self._open[-1]
        self._count += node.size
        place.node.size += node.size
        place.node.height = max(place.node.height, node.height + 1)
        self._bound(len(self._open) + node.height)
        if isinstance(place.node.value, list):
            place.node.value.append(node.value)
        elif not place.key:
            place.key.append(_checked_key(place, node.value))
        elif (key := place.key.pop()) is _MERGE:
            place.merged = _merged(node.value)
        else:
            place.node.value[key] = node.value

    def _bound(self, depth: int) -> None:
        if depth > DEEPEST:
            raise _Refused(f"is nested more than {DEEPEST} levels deep; correct it")
        if self._count > MOST_VALUES:
            raise _Refused(f"the file has more than {MOST_VALUES:,} values, counting repeats by aliases; write fewer")


def _checked_key(place: _Open, key: Any) -> Any:
    if key is _MERGE and place.merged is not None:
        raise _Refused("<< appears twice in one mapping; give it a list")
    if not isinstance(key, Hashable):
        raise _Refused("a list or mapping cannot be the name of a setting; correct it")
    if key in place.node.value:
        raise _Refused(f'"{str(key)[:60]}" appears twice in one mapping; keep one')
    return key


def _merged(value: Any) -> dict[Any, Any]:
    """The keys and values of `<<: value`; the first of several mappings wins."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        raise _Refused("<< takes a mapping or a list of mappings; correct it")
    result: dict[Any, Any] = {}
    for part in reversed(parts):
        result |= part
    return result


def _refuse_tag(tag: str | None) -> None:
    if tag not in (None, "!"):
        raise _Refused(f"has the tag {tag[:60]}; write the value without a tag")


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if _NO_TEXT.search(text):
        raise _Refused("contains a character that is not text (U+0000 or half a surrogate pair); remove it")
    if event.tag != "tag:yaml.org,2002:str":
        _refuse_tag(event.tag)
        if event.implicit[0]:
            return _plain(text)
    return text


def _plain(text: str) -> Any:
    """The value of a scalar without quotes."""
    if _NULL.fullmatch(text):
        return None
    if _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if _FLOAT.fullmatch(text) or _INTEGER.fullmatch(text):
        return _number(text)
    if _DATE.fullmatch(text):
        raise _Refused(f"{text} is a date, which no setting accepts; put it in quotes")
    return text


def _number(text: str) -> int | float:
    digits = text.replace("_", "").lower()
    try:
        value = float(digits) if _FLOAT.fullmatch(text) else _whole(digits)
    except ValueError:
        raise _Refused(f"{text[:60]} is not a number that a setting accepts; put it in quotes if it is text") from None
    if not (math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63):
        raise _Refused(f"{text[:60]} is a number over 64 bits; correct it")
    return value


def _whole(digits: str) -> int:
    sign, rest = (-1, digits[1:]) if digits[0] == "-" else (1, digits.removeprefix("+"))
    base = _BASES.get(rest[:2])
    return sign * (int(rest[2:], base) if base else int(rest))


def _not_too_deep(value: Any, where: str) -> Any:
    level = [value]
    for _ in range(DEEPEST):
        level = list(_items(level))
        if not level:
            return value
    raise DataError(f"{where}: is nested more than {DEEPEST} levels deep; correct it")


def _items(values: Iterable[Any]) -> Iterable[Any]:
    for outer in values:
        yield from outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def _words(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0][:100]
