"""Which systems are compared: files of answers by name, a folder of baselines, and the checks of the records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instruct.core.errors import ParamsError

BASELINES, CHECKS = "baselines", "checks"


@dataclass(frozen=True, kw_only=True)
class Systems:
    """The file of answers of each system in order; `baselines` are those that a trained one must beat."""

    files: dict[str, Path]
    baselines: tuple[str, ...]
    checks: Path | None = None


def name_systems(given: Sequence[Path]) -> Systems:
    """The systems from NAME=FILE, `baselines=FOLDER` and `checks=FILE`; raises ParamsError for anything else.

    Each file NAME.json of the folder is a baseline, in alphabetical order. Without a folder the first system is the
    only baseline.
    """
    files: dict[str, Path] = {}
    baselines: tuple[str, ...] = ()
    checks: Path | None = None
    for one in given:
        name, equals, file = str(one).partition("=")
        if not (name and equals and file) or name in files or Path(file).is_absolute():
            raise ParamsError(f"{one}: must be NAME=FILE, each name once, the file inside the project")
        if name == CHECKS and not checks:
            checks = Path(file)
        elif name == BASELINES:
            found = _files_in(Path(file))
            baselines = tuple(found)
            files |= found
        else:
            files[name] = Path(file)
    if len(files) < 2 or list(files)[-1] in baselines:
        raise ParamsError(
            "give a baseline and then the systems to compare with it: base=FILE (baselines=FOLDER) sft=FILE"
        )
    return Systems(files=files, baselines=baselines or tuple(files)[:1], checks=checks)


def _files_in(folder: Path) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not found:
        raise ParamsError(
            f"{folder}: is not a folder with a file NAME.json for each baseline; run `dvc repro baseline`"
        )
    return found
