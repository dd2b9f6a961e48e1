"""Imports a data set with `dvc import-url`, so that Git records its source and DVC its bytes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from instruct.core.errors import DataError, ParamsError
from instruct.core.files import sha256_of
from instruct.core.params import did_you_mean, load_entries

SOURCES = Path("data/sources.yaml")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One entry of data/sources.yaml."""

    name: str
    about: str
    licence: str
    url: str
    path: str
    size: int
    sha256: str


def read_sources(sources: Path = SOURCES) -> dict[str, Source]:
    """All known data sets by name."""
    try:
        return load_entries(Source, sources)
    except ParamsError as error:
        raise DataError(f"{sources}: not a table of sources ({error})") from None


def import_data(name: str, sources: Path = SOURCES) -> Path:
    """Import one data set and verify it; an incomplete download changes nothing.

    Raises DataError for an unknown name, a file at its place that is another or that DVC does not track, a download
    that fails, or a wrong checksum.
    """
    known = read_sources(sources)
    if name not in known:
        raise DataError(f'there is no data set "{name}" in {sources}{did_you_mean(name, known)}')
    source = known[name]
    path = Path(source.path)
    notes = (path.with_name(path.name + ".dvc"), path.with_name(".gitignore"))
    if path.exists():
        if sha256_of(path) != source.sha256:
            raise DataError(f"{path}: exists and is not the data set {name}; move it away first")
        if not notes[0].exists():
            raise DataError(
                f"{path}: is the data set {name}, but {notes[0]} is missing; move it away, then import again"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {note: note.read_bytes() if note.exists() else None for note in notes}
    try:
        _import_url(source.url, path)
        digest = sha256_of(path)
        if digest != source.sha256:
            raise DataError(
                f"{source.url}: has sha256 {digest[:16]}… instead of {source.sha256[:16]}…; nothing was kept, "
                f"correct {sources} if the data set was renewed on purpose"
            )
    except BaseException:
        path.unlink(missing_ok=True)
        for note, content in before.items():
            if content is None:
                note.unlink(missing_ok=True)
            else:
                note.write_bytes(content)
        raise
    return path


def _import_url(url: str, path: Path) -> None:
    command = [sys.executable, "-m", "dvc", "import-url", "--force", url, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        reason = reason.removeprefix("ERROR: ").rsplit(" - ", 1)[-1]
        raise DataError(f"{url}: dvc import-url failed ({reason}); check the address and the network, then try again")
