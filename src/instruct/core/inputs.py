"""The inputs that dvc.yaml declares for the stage that DVC runs; a stage during which they change must fail.

DVC hashes dependencies and reads settings once a command has ended. So an edit during a run would be recorded, and kept
in the run cache, as what made the outputs.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from instruct.core.errors import InstructError
from instruct.core.files import sha256_of
from instruct.core.params import PARAMS_FILE
from instruct.core.parsing import flatten, mapping, read_yaml

PIPELINE, IGNORED = Path("dvc.yaml"), Path(".dvcignore")
SMALL = 1 << 24  # bytes of a file that is hashed; a larger one is known by its size and time

_at_start: dict[str, Any] = {}


def watch_inputs() -> None:
    """Note what the inputs are now; outside of DVC there are none."""
    _at_start.clear()
    _at_start.update(_inputs_of(os.environ.get("DVC_STAGE", "")))


def check_inputs() -> None:
    """Raise InstructError with all inputs that have changed since `watch_inputs`.

    A stage calls it before it forgets what it could go on from; `run_stage` does at the end of each.
    """
    if not _at_start:
        return
    now = _inputs_of(os.environ["DVC_STAGE"])
    changed = sorted(name for name in _at_start.keys() | now.keys() if _at_start.get(name) != now.get(name))
    if changed:
        raise InstructError(
            f"{', '.join(changed)}: changed while the stage ran, and DVC would record the new state as what made the "
            "outputs; run `dvc repro` again, or put it back first to go on from what is done"
        )


def filled(name: str, settings: Mapping[str, Any]) -> str | None:
    """A path of dvc.yaml with each `${section.setting}` replaced; None where a setting is missing or no text."""
    for found in re.findall(r"\$\{([^}]*)\}", name):
        value = settings.get(found.strip())
        if not isinstance(value, str):
            return None
        name = name.replace(f"${{{found}}}", value)
    return name


def _inputs_of(stage: str) -> dict[str, Any]:
    """Files by path, each with what it is known by, and settings by name, each with its value."""
    stages = mapping(mapping(_read(PIPELINE)).get("stages"))
    declared = mapping(stages.get(stage.rpartition(":")[2].partition("@")[0]))
    declared = mapping(declared.get("do")) or declared
    settings = flatten(mapping(_read(PARAMS_FILE)))
    paths = [filled(dep, settings) for dep in declared.get("deps") or [] if isinstance(dep, str)]
    files = {str(file): _mark(file) for path in paths if path for file in _files_of(Path(path))}
    return files | dict(_settings_of(declared.get("params") or [], settings))


def _read(path: Path) -> Any:
    return read_yaml(path) if path.is_file() else None


def _files_of(path: Path) -> Iterator[Path]:
    """A file itself, or the files in a folder that DVC does not ignore."""
    patterns = [line.rstrip("/") for line in IGNORED.read_text("utf-8").splitlines()] if IGNORED.is_file() else []
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not any(fnmatch(part, one) for part in file.parts for one in patterns if one):
            yield file


def _mark(file: Path) -> str | tuple[int, int]:
    state = file.stat()
    return sha256_of(file) if state.st_size <= SMALL else (state.st_size, state.st_mtime_ns)


def _settings_of(entries: Iterable[Any], settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for entry in entries:
        for file, keys in {PARAMS_FILE.name: [entry]}.items() if isinstance(entry, str) else mapping(entry).items():
            values = settings if file == PARAMS_FILE.name else flatten(mapping(_read(Path(file))))
            for key in filter(None, (filled(key, settings) for key in keys)):
                for name, value in values.items():
                    if name == key or name.startswith(f"{key}."):
                        yield f"{file}: {name}", value
