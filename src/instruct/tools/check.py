"""Validates everything that can be wrong before a stage runs, in about a second and without torch."""

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from instruct.augmentation.settings import AugmentParams
from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.errors import InstructError
from instruct.core.params import PARAMS_FILE, load_params, read_params
from instruct.core.records import Example
from instruct.core.runtime import RuntimeParams
from instruct.evaluation.settings import EvaluateParams
from instruct.formats.columns import USUAL
from instruct.formats.rows import check_rows
from instruct.generation.settings import GenerateParams
from instruct.quality.settings import QualityParams
from instruct.report.settings import PlotParams
from instruct.servers.settings import ServersParams
from instruct.splitting.partition import SplitParams, split_examples
from instruct.text.prompts import PromptParams
from instruct.training.settings import TrainParams


@dataclass(frozen=True, kw_only=True)
class LaunchParams:
    """The section `launch` of params.yaml: the program that dvc.yaml starts a stage's script with."""

    train: str
    generate: str


SECTIONS: dict[str, type[Any]] = {
    "launch": LaunchParams,
    "model": ModelParams,
    "prompt": PromptParams,
    "runtime": RuntimeParams,
    "split": SplitParams,
    "augment": AugmentParams,
    "quality": QualityParams,
    "train": TrainParams,
    "generate": GenerateParams,
    "evaluate": EvaluateParams,
    "servers": ServersParams,
    "plot": PlotParams,
}


def check_params(path: Path = PARAMS_FILE) -> tuple[dict[str, Any], list[str]]:
    """Every section as its dataclass, and all problems at once, one line each."""
    problems = []
    settings: dict[str, Any] = {}
    for name in read_params(path):
        if name not in SECTIONS:
            nearest = get_close_matches(str(name), SECTIONS, n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(SECTIONS)}"
            problems.append(f"{path}: {name} is not a section{hint}")
    for name, cls in SECTIONS.items():
        try:
            settings[name] = load_params(name, cls, path)
        except InstructError as error:
            problems.append(str(error))
    return settings, problems


def check_all(data: Path | None, path: Path = PARAMS_FILE) -> tuple[list[str], list[str]]:
    """What is set and what is there (lines to print), and what is wrong (lines to print; empty if all is well)."""
    settings, problems = check_params(path)
    lines = [line for name, values in settings.items() for line in flatten(name, asdict(values))]
    if "model" in settings:
        try:
            backbone = find_backbone(settings["model"].backbone)
            missing = [file.name for file in backbone.files if verify_size(backbone.folder / file.name, file.size)]
            state = f"will be fetched: {', '.join(missing)}" if missing else "here"
            lines.append(f"backbone {backbone.name} ({backbone.licence}): {backbone.about}; {state}")
        except InstructError as error:
            problems.append(str(error))
    source = data or (Path(settings["split"].data) if "split" in settings else None)
    if source:
        try:
            columns = settings["split"].columns if "split" in settings else USUAL
            examples, bad = check_rows(source, columns)
            found = [line for record in bad.values() for line in record]
            dropped = "split" in settings and settings["split"].invalid == "drop" and data is None
            (lines if dropped else problems).extend(found)
            lines.append(f"{source}: {len(examples)} records valid, {len(bad)} not")
            if "split" in settings and not (bad and not dropped):
                counts = {name: len(part) for name, part in split_examples(examples, settings["split"]).items()}
                lines.append(f"{source}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
            if examples and {"model", "prompt", "quality", "train"} <= set(settings):
                looked, failed = check_quality(source, examples, bad, settings, full=data is not None)
                lines += looked
                problems += failed
        except InstructError as error:
            problems.append(str(error))
    return lines, problems


def check_quality(
    source: Path, examples: list[Example], bad: Container[int], settings: Mapping[str, Any], *, full: bool
) -> tuple[list[str], list[str]]:
    """Lines to print and gates that fail; `full` lists all findings and, if the backbone is here, lengths in tokens."""
    from instruct.tools.quality import brief_lines, check_file, full_lines

    backbone = find_backbone(settings["model"].backbone)
    here = not any(verify_size(backbone.folder / file.name, file.size) for file in backbone.files)
    length = settings["train"].max_length
    report = check_file(
        source,
        examples,
        bad,
        settings["quality"],
        settings["prompt"].template,
        backbone if full and here else None,
        length,
    )
    return full_lines(source, report, length) if full else brief_lines(source, report)


def verify_size(path: Path, size: int) -> bool:
    """Whether a file is missing or of another size; the sha256 is checked when it is loaded."""
    return not path.is_file() or path.stat().st_size != size


def flatten(prefix: str, values: dict[str, Any]) -> list[str]:
    """`a.b.c = value` lines of nested settings."""
    lines = []
    for name, value in values.items():
        key = f"{prefix}.{name}"
        lines += flatten(key, value) if isinstance(value, dict) else [f"{key} = {value}"]
    return lines
