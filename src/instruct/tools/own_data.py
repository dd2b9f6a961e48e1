"""The user's own data: the pipeline reads it and no stage writes it, so Git or DVC must track it."""

import posixpath
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from instruct.core.files import read_text
from instruct.core.inputs import exists, filled
from instruct.core.parsing import flatten, mapping, parse_yaml
from instruct.tools.programs import git_names


def own_data(pipeline: Any, params: Mapping[str, Any]) -> list[str]:
    """The deps in dvc.yaml that no stage writes, with settings filled in; leaves out those whose setting is missing.

    The settings are nested or by dotted name.
    """
    params = flatten(params)
    listed = [stage for stage in mapping(mapping(pipeline).get("stages")).values() if isinstance(stage, Mapping)]
    stages = [mapping(stage.get("do")) if "foreach" in stage else stage for stage in listed if exists(stage, params)]
    made = {name for stage in stages for key in ("outs", "metrics", "plots") for name in _names(stage.get(key))}
    deps = dict.fromkeys(name for stage in stages for name in _names(stage.get("deps")))
    found = [filled(name, params) for name in deps if not any(_lies_in(name, one) for one in made)]
    return [name for name in found if name is not None]


def untracked(root: Path, paths: Iterable[str], clone: Path | None = None) -> list[str]:
    """A line for each of `paths` that a copy of the commit at `root` would lack, with the command that helps.

    `clone` is the folder with the committed files, instead of `root` itself.
    """
    folder = clone or root
    tracked = git_names(folder, "ls-files", "-z")
    kept = {*tracked, *(path for path, _ in outs_of_dvc_files(folder, tracked))}
    lines = []
    for path in paths:
        name = posixpath.normpath(path)
        if PurePosixPath(name).is_absolute() or any(_lies_in(name, one) or _lies_in(one, name) for one in kept):
            continue
        lines.append(f"{path}: {_remedy(root, name)}")
    return lines


def only_in_dvc(root: Path, path: str) -> bool:
    """Whether a file is missing that a tracked .dvc file describes, as in a clone before `dvc pull`."""
    if (root / path).exists():
        return False
    name = posixpath.normpath(path)
    return any(_lies_in(name, kept) for kept, _ in outs_of_dvc_files(root, git_names(root, "ls-files", "-z")))


def outs_of_dvc_files(folder: Path, tracked: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each path that DVC keeps beside a .dvc file among `tracked`, and that file's name."""
    for name in tracked:
        if name.endswith(".dvc") and (folder / name).is_file():
            for out in mapping(parse_yaml(read_text(folder / name), name)).get("outs") or []:
                yield posixpath.normpath(PurePosixPath(name).parent / str(mapping(out).get("path"))), name


def _remedy(root: Path, name: str) -> str:
    if name.startswith("../"):
        return "lies outside of the repository; copy it to data/, `git add` it there, and name it in split.data"
    if (root / f"{name}.dvc").is_file():
        return f"only DVC's file about it is missing in Git; run `git add {shlex.quote(f'{name}.dvc')}` and commit"
    quoted = shlex.quote(name)
    return f"neither Git nor DVC tracks it; run `git add {quoted}`, or `dvc add {quoted}` if it is large, and commit"


def _names(entries: Any) -> list[str]:
    """Paths of deps or outs, of which each is a name or a mapping from the name to options."""
    found = [next(iter(one), None) if isinstance(one, Mapping) else one for one in entries or []]
    return [posixpath.normpath(name) for name in found if isinstance(name, str)]


def _lies_in(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")
