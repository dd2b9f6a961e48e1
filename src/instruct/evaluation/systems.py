"""Which systems are compared: files of answers by name, folders of several, and the checks of the records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct.core.errors import ParamsError

BASELINES, CHECKS, PREFERRED = "baselines", "checks", "preferred"


@dataclass(frozen=True, kw_only=True)
class Systems:
    """The file of answers of each system in order; `baselines` are those that a trained one must beat."""

    files: dict[str, Path]
    baselines: tuple[str, ...]
    checks: Path | None = None

    @property
    def trained(self) -> tuple[str, ...]:
        """The systems that are no baselines: the SFT model, then what was made of it."""
        return tuple(name for name in self.files if name not in self.baselines)


def name_systems(given: Sequence[Path]) -> Systems:
    """The systems from NAME=FILE, folders of them and `checks=FILE`; raises ParamsError for anything else.

    Each file NAME.json of `baselines=FOLDER` is a baseline, in alphabetical order; without it the first system is the
    only baseline. `preferred=FOLDER` holds the answers of preference-tuned models, if there are any.
    """
    named: dict[str, Path] = {}
    for one in given:
        name, equals, file = str(one).partition("=")
        if not (name and equals and file) or name in named or Path(file).is_absolute():
            raise ParamsError(f"{one}: must be NAME=FILE, each name once, the file inside the project")
        named[name] = Path(file)
    files: dict[str, Path] = {}
    for name, path in named.items():
        found = _files_of(name, path)
        if twice := files.keys() & found.keys():
            raise ParamsError(f"{path}: the system {min(twice)} is given twice; name each once")
        files |= found
    baselines = tuple(_files_in(named[BASELINES])) if BASELINES in named else tuple(files)[:1]
    if len(files) < 2 or list(files)[-1] in baselines:
        raise ParamsError("give a baseline, then the systems to compare with it: base=FILE (baselines=FOLDER) sft=FILE")
    return Systems(files=files, baselines=baselines, checks=named.get(CHECKS))


def _files_of(name: str, path: Path) -> dict[str, Path]:
    """The files of answers that one argument names, by system."""
    if name == BASELINES:
        return _files_in(path)
    if name == PREFERRED:
        return {file.stem: file for file in sorted(path.glob("*.json"))}
    return {} if name == CHECKS else {name: path}


def _files_in(folder: Path) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)}
    if not found:
        raise ParamsError(
            f"{folder}: is not a folder with a file NAME.json for each baseline; run `dvc repro baseline`"
        )
    return found
