"""The inputs that dvc.yaml declares for the stage that DVC runs; a stage during which they change must fail.

DVC hashes dependencies and reads settings once a command has ended. So an edit during a run would be recorded, and kept
in the run cache, as what made the outputs. A stage with `wdir` is not watched.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from instruct.core.errors import InstructError
from instruct.core.files import sha256_of
from instruct.core.params import PARAMS_FILE
from instruct.core.parsing import flatten, mapping, read_yaml

PIPELINE, IGNORED = "dvc.yaml", Path(".dvcignore")
SMALL = 1 << 24  # bytes of a file that is hashed; a larger one is known by its size and time
AGAIN_S = 0.3  # until a second look: editors write beside a file and rename, and take some time for it


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """The dependencies of a stage, and the keys that it reads of each YAML file; no keys stand for all of it."""

    paths: list[Path]
    keys: dict[Path, list[str]]
    ignored: GitIgnoreSpec

    def marks(self) -> dict[str, Any]:
        """Files by path, each with what it is known by, and settings by name, each with its value."""
        found: dict[str, Any] = {}
        for file in (file for path in self.paths for file in files_below(path, self.ignored)):
            with suppress(FileNotFoundError):  # a file of an editor may vanish at any time
                state = file.stat()
                small = state.st_size <= SMALL
                found[str(file)] = sha256_of(file) if small else (state.st_size, state.st_mtime_ns)
        for file, keys in self.keys.items():
            values = flatten(mapping(read_yaml(file) if file.is_file() else None))
            found |= {f"{file}: {name}": value for name, value in values.items() if _is_below(name, keys)}
        return found


_watched: tuple[_Declared, dict[str, Any]] | None = None


def watch_inputs() -> None:
    """Note what the inputs are, unless it is known from before; outside of DVC there are none."""
    global _watched
    if _watched is None and (stage := os.environ.get("DVC_STAGE")):
        declared = _declared_by(stage)
        _watched = declared, declared.marks()


def check_inputs() -> None:
    """Raise InstructError with all inputs that have changed since `watch_inputs`.

    A stage calls it before it forgets what it could go on from; `run_stage` does at the end of each.
    """
    if _watched is None:
        return
    declared, before = _watched
    if changed := _changes(declared, before):
        time.sleep(AGAIN_S)
        changed = _changes(declared, before)
    if changed:
        raise InstructError(
            f"{', '.join(changed)}: changed while the stage ran, and DVC would record the new state as what made the "
            "outputs; run `dvc repro` again, or put it back first to go on from what is done"
        )


def files_below(path: Path, ignored: GitIgnoreSpec) -> Iterator[Path]:
    """A file itself, or the files in a folder that DVC does not ignore."""
    if path.is_file():
        yield path
    for file in path.rglob("*"):
        if file.is_file() and not ignored.match_file(file):
            yield file


def read_ignored(file: Path = IGNORED) -> GitIgnoreSpec:
    """The patterns of a .dvcignore, for paths relative to its folder."""
    return GitIgnoreSpec.from_lines(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [])


def exists(stage: Any, params: Any) -> bool:
    """Whether DVC knows a stage of dvc.yaml: `foreach` over an empty list makes none."""
    each = mapping(stage).get("foreach")
    return each is None or bool(flatten(mapping(params)).get(each.strip("${} ")) if isinstance(each, str) else each)


def filled(name: str, settings: Mapping[str, Any]) -> str | None:
    """A path of dvc.yaml with each `${section.setting}` replaced; None where a setting is missing or no text."""
    for found in re.findall(r"\$\{([^}]*)\}", name):
        value = settings.get(found.strip())
        if not isinstance(value, str):
            return None
        name = name.replace(f"${{{found}}}", value)
    return name


def _declared_by(stage: str) -> _Declared:
    stages = mapping(mapping(_read(Path(PIPELINE))).get("stages"))
    declared = mapping(stages.get(stage.rpartition(":")[2].partition("@")[0]))
    declared = {} if "wdir" in declared else mapping(declared.get("do")) or declared
    settings = flatten(mapping(_read(PARAMS_FILE)))
    paths = [filled(dep, settings) for dep in declared.get("deps") or [] if isinstance(dep, str)]
    keys: dict[Path, list[str]] = {}
    for entry in declared.get("params") or []:
        for file, names in mapping(entry).items() or [(PARAMS_FILE, [entry])]:
            keys.setdefault(Path(file), []).extend(filled(str(name), settings) or "" for name in names or [""])
    others = [file for file in keys if file.suffix not in (".yaml", ".yml")]  # DVC reads TOML, JSON and Python too
    return _Declared(
        paths=[Path(path) for path in paths if path] + others,
        keys={file: names for file, names in keys.items() if file not in others},
        ignored=read_ignored(),
    )


def _read(path: Path) -> Any:
    return read_yaml(path) if path.is_file() else None


def _is_below(name: str, keys: list[str]) -> bool:
    return any(not key or name == key or name.startswith(f"{key}.") for key in keys)


def _changes(declared: _Declared, before: Mapping[str, Any]) -> list[str]:
    try:
        now = declared.marks()
    except InstructError as error:  # a settings file that is half written
        return [str(error)]
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
