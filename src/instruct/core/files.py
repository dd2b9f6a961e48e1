"""Files that are complete or absent: atomic writes, and JSON and CSV with the same bytes every time."""

import csv
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from io import StringIO
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError, InstructError

_QUOTED = re.compile('[",\r\n]')
# Formulas (OWASP's list), and text that spreadsheets read as numbers or dates; after apostrophes too, to add one more.
_NUMERIC = r"[\d.][\d.,:/eE+-]*\Z"
_CHANGED_BY_SPREADSHEETS = re.compile(rf"'*([=+\-@\t\r]|{_NUMERIC})")
_RUN_BY_SPREADSHEETS = re.compile(rf"'*[=+\-@\t\r]|'+{_NUMERIC}")
_KEPT_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it over `path`.

    If anything fails before the rename, the old file is unchanged and no temporary file is left.
    Raises InstructError for disk errors.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InstructError(f"{path}: cannot be written ({reason}); free some space or check the folder") from error
    finally:
        if part:
            part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text unchanged, atomically."""

    def write(part: Path) -> None:
        part.write_bytes(text.encode("utf-8"))

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with the same bytes for the same value: sorted keys, two spaces, final newline.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    write_text(path, text + "\n")


def write_json_list(path: Path, values: Iterable[Any]) -> None:
    """Write the same bytes as `write_json` for a list of these values, with one value in memory at a time."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            opening = "[\n"
            for value in values:
                text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
                # JSON escapes line breaks in text, so each real one starts a line to indent.
                file.write(opening + "  " + text.replace("\n", "\n  "))
                opening = ",\n"
            file.write("\n]\n" if opening == ",\n" else "[]\n")

    write_atomically(path, write)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, edited: bool = False) -> None:
    """Write a CSV file with a header line; a value that a row lacks stays empty.

    People open these files in spreadsheets, which run `=1+1`. Such a text gets a leading apostrophe, which `parse_csv`
    removes. In a file that is `edited` there and read again, so does a text that would come back changed, such as
    `123456789012` or `3-4`. Elsewhere it stays as it is, so that other programs find the same ids.
    """
    marked = _CHANGED_BY_SPREADSHEETS if edited else _RUN_BY_SPREADSHEETS
    lines = [",".join(_csv_field(name, marked) for name in columns)]
    for row in rows:
        if lost := [name for name in row if name not in columns]:
            raise ValueError(f"there is no column {lost[0]}")
        lines.append(",".join(_csv_field(row.get(name), marked) for name in columns))
    write_text(path, "".join(f"{line}\n" for line in lines))


def _csv_field(value: Any, marked: re.Pattern[str]) -> str:
    """One field; unlike the csv module, it quotes a carriage return, which csv's reader takes for a line end."""
    text = "" if value is None else str(value)
    if isinstance(value, str) and marked.match(text) and not _KEPT_NUMBER.fullmatch(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV file with a header line into one dictionary per row."""
    return parse_csv(read_text(path), str(path))[1]


def parse_csv(text: str, where: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a CSV text with LF, CRLF or CR line ends and fields of any length.

    Raises DataError that begins with `where` and names the line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        names = list(map(_without_apostrophe, next(reader, [])))
        if len(set(names)) != len(names):
            raise ValueError("two columns have the same name")
        return names, [dict(_named(names, row)) for row in reader if row]
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where}:{reader.line_num}: not CSV ({error}); correct it or create it again") from None


def _named(names: Sequence[str], row: Sequence[str]) -> Iterator[tuple[str, str]]:
    if len(row) != len(names):
        raise ValueError(f"a row has {len(row)} fields, the header has {len(names)}")
    yield from zip(names, map(_without_apostrophe, row), strict=True)


def _without_apostrophe(text: str) -> str:
    return text[1:] if text.startswith("'") and _CHANGED_BY_SPREADSHEETS.match(text) else text


def read_text(path: Path) -> str:
    """Read a UTF-8 file; raises DataError that names the file and, for wrong bytes, the place."""
    with readable(path):
        content = path.read_bytes()
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); save the file as UTF-8"
        ) from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any error of opening and reading a file into a DataError in plain words."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise DataError(f"{path}: is a pipe or a device, and reading it could wait for ever; give a regular file")
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path or run the stage that writes it") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give a file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_json(path: Path) -> Any:
    """Read a JSON file strictly: UTF-8, no NaN, no duplicate keys in an object.

    Raises DataError that names the file, the line and what to do.
    """
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty; it must be a JSON document")
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        cut = _looks_cut_off(text.strip(), error)
        hint = "the file looks cut off; copy or download it again" if cut else "correct the file at this place"
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}); {hint}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for a data file; correct it") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}; correct the file") from None


def _looks_cut_off(text: str, error: json.JSONDecodeError) -> bool:
    """Whether a document ends before its outermost list or object does."""
    closing = {"[": "]", "{": "}"}.get(text[0], "")
    return error.msg != "Extra data" and (not text.endswith(closing) or error.pos >= len(error.doc.rstrip()))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key "{key}" appears twice in one object')
            seen.add(key)
    return result


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal; raises DataError that names a file that cannot be read."""
    with readable(path), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def checkpoint_files(folder: Path) -> list[Path]:
    """What a checkpoint's identity depends on: its weights, settings and tokenizer, in the order of their names."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
