"""What dvc.lock records about the training of a checkpoint, if the files here are those that it names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest, md5
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from instruct.core.errors import CheckpointError
from instruct.core.files import readable
from instruct.core.inputs import IGNORED, files_below, read_ignored
from instruct.core.params import read_params
from instruct.core.parsing import mapping, read_yaml
from instruct.results.lock import LOCK, PARAMS, md5_of_folder, record_of

TRAINED = Path("models/sft")
TUNED = Path("models/dpo")
"""The output folders of the stages: dvc.lock knows only checkpoints inside them."""
_MADE_BY = {TRAINED: "train", TUNED: "prefer"}
_ANSWERED_BY = {TRAINED: "generate", TUNED: "answer"}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The sections of params.yaml that a checkpoint was trained with, and whether the run's answers are its own.

    Empty for a checkpoint that dvc.lock does not name.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    answered: bool = False


def training_of(root: Path, checkpoint: Path) -> Training:
    """The training of a checkpoint by dvc.lock; hashes every file of the stage's output.

    Raises CheckpointError if that output is not the one that dvc.lock names: its settings and scores belong to others.
    """
    place = (root / checkpoint).resolve()
    made = next((one for one in _MADE_BY if place.is_relative_to((root / one).resolve())), None)
    if made is None or not (root / LOCK).is_file():
        return Training()
    params, lock = read_params(root / PARAMS), mapping(read_yaml(root / LOCK))
    wanted = record_of(params, lock, _MADE_BY[made]).made.get(made.as_posix())
    if not wanted:
        return Training()
    files = _md5s_in(root / made, read_ignored(root / IGNORED))
    if md5_of_folder(files) != wanted:
        raise CheckpointError(
            f"{made}: is not the one of {LOCK}; run `dvc checkout` or `dvc repro`, or export a copy from another folder"
        )
    within = place.relative_to((root / made).resolve()).as_posix()
    inside = {path.removeprefix(f"{within}/"): md5 for path, md5 in files.items() if path.startswith(f"{within}/")}
    settings: dict[str, Any] = {}
    for stage in ("split", "augment", "pairs", _ANSWERED_BY[made], "train", _MADE_BY[made]):
        settings |= record_of(params, lock, stage).params
    read = record_of(params, lock, _ANSWERED_BY[made]).read.get(f"{made.as_posix()}/{within}")
    return Training(settings=settings, answered=read == md5_of_folder(inside))


def _md5s_in(folder: Path, ignored: GitIgnoreSpec) -> dict[str, str]:
    """The md5 of every file by its path in the folder, without those that DVC ignores."""
    found = {}
    for path in files_below(folder, ignored):
        with readable(path), path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = file_digest(
                file, partial(md5, usedforsecurity=False)
            ).hexdigest()
    return found
