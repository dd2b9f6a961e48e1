"""What settings name and a stage would not find: programs, a rubric, the files of checks and pairs."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from instruct.checks.schema import read_check_values
from instruct.core.errors import InstructError
from instruct.evaluation.rubrics import find_rubric
from instruct.pairs.reading import read_file

_ASSIGNMENT = re.compile(r"\w+=")
_PROGRAM = re.compile(r"(?!(?:cd|command|exec|time)\b)[\w./+-]+")  # a name that the shell takes as it is, to a file


@dataclass(frozen=True, kw_only=True)
class LaunchParams:
    """The section `launch` of params.yaml: the program that dvc.yaml starts a stage's script with."""

    train: str
    generate: str


def stops(settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting that would stop a stage, as that stage says it; sections that are not there are skipped.

    Files of pairs are read only where a method asks for them, as it is with the stage.
    """
    lines = list(missing_programs(settings["launch"])) if "launch" in settings else []
    if "split" in settings:
        lines += _said_by("split.checks", partial(read_check_values, Path(settings["split"].checks)))
    if {"pairs", "prefer"} <= set(settings) and settings["prefer"].methods and settings["pairs"].source == "file":
        pairs = settings["pairs"]
        lines += _said_by("pairs.file", partial(read_file, Path(pairs.file), drop=pairs.invalid == "drop"))
    if "evaluate" in settings:
        lines += _said_by("evaluate.rubric", partial(find_rubric, settings["evaluate"].rubric))
    return lines


def missing_programs(launch: LaunchParams) -> Iterator[str]:
    """A line for each program that is neither beside this Python nor on the path, where DVC looks for it."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for name, command in asdict(launch).items():
        try:
            words = [word for word in shlex.split(command) if not _ASSIGNMENT.match(word)]
        except ValueError:
            yield f"launch.{name}: {command} has a quote that is not closed; close it"
            continue
        if not words:
            yield f"launch.{name}: names no program; write python"
        elif words[0] != "python" and _PROGRAM.fullmatch(words[0]) and not shutil.which(words[0], path=places):
            yield f"launch.{name}: there is no program {words[0]}; install it, or write python"


def _said_by(setting: str, read: Callable[[], object]) -> list[str]:
    """What reading refuses, each line with the setting that leads there."""
    try:
        read()
    except InstructError as error:
        return [line if setting in line else f"{setting}: {line}" for line in str(error).splitlines()]
    return []
