"""Brings another data set in by `dvc import-url`, so that Git holds where it came from and DVC its bytes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from instruct.errors import DataError, ParamsError
from instruct.files import read_text, sha256_of
from instruct.params import build, did_you_mean

SOURCES = Path("data/sources.yaml")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One entry of data/sources.yaml."""

    about: str
    licence: str
    url: str
    path: str
    size: int
    sha256: str


def read_sources(sources: Path = SOURCES) -> dict[str, Source]:
    """All known data sets by name."""
    try:
        entries = yaml.safe_load(read_text(sources))
        return {name: build(Source, entry, where=f"{sources}: {name}") for name, entry in entries.items()}
    except (yaml.YAMLError, ParamsError, AttributeError) as error:
        raise DataError(f"{sources}: not a table of sources ({error})") from None


def import_data(name: str, sources: Path = SOURCES) -> Path:
    """Import one data set and verify it; a file with other bytes is removed again.

    Raises DataError for an unknown name, a download that fails, or a wrong checksum.
    """
    known = read_sources(sources)
    if name not in known:
        raise DataError(f'there is no data set "{name}" in {sources}{did_you_mean(name, known)}')
    source = known[name]
    path = Path(source.path)
    if path.exists() and sha256_of(path) == source.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dvc", "import-url", "--quiet", "--force", source.url, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(f"{source.url}: dvc import-url failed ({reason}); check the network and try again")
    digest = sha256_of(path)
    if digest != source.sha256:
        path.unlink()
        path.with_name(path.name + ".dvc").unlink(missing_ok=True)
        raise DataError(
            f"{source.url}: has sha256 {digest[:16]}… instead of {source.sha256[:16]}…; nothing was kept, "
            f"correct {sources} if the data set was renewed on purpose"
        )
    return path
