"""Validates settings, backbone and data before a stage runs, in seconds and without torch."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from instruct.augmentation.settings import AugmentParams
from instruct.backbones.catalog import Backbone, ModelParams, find_backbone, pin_first, unpinned
from instruct.baselines.settings import BaselineParams
from instruct.core.errors import BackboneError, DataError, InstructError, ParamsError
from instruct.core.files import read_json
from instruct.core.git import ask_git
from instruct.core.params import PARAMS_FILE, build, load_params, read_params
from instruct.core.parsing import flatten, mapping, parse_yaml
from instruct.core.records import Example, part_rows, problem_lines
from instruct.core.runtime import RuntimeParams
from instruct.evaluation.settings import EvaluateParams
from instruct.formats.columns import USUAL
from instruct.formats.rows import Rows, left_out_lines
from instruct.generation.settings import GenerateParams
from instruct.pairs.settings import PairsParams
from instruct.preference.settings import PreferParams
from instruct.quality.settings import QualityParams
from instruct.report.settings import PlotParams
from instruct.servers.settings import ServersParams
from instruct.serving.settings import ServeParams
from instruct.splitting.checks import Checks, join_checks
from instruct.splitting.partition import PARTS, SplitParams, divide
from instruct.splitting.summary import find_warnings, summarise
from instruct.text.prompts import PromptParams
from instruct.text.tokenizer import Tokenizer, gpt2_tokenizer
from instruct.tools.answers import common_lines, reference_lines, unit_lines, unmatched_lines, with_checks
from instruct.tools.limits import Room, context_without_weights, count_lengths, limit_lines, warmup_lines
from instruct.tools.own_data import untracked
from instruct.tools.stops import LaunchParams, stops
from instruct.training.settings import TrainParams

SECTIONS: dict[str, type[Any]] = {
    "launch": LaunchParams,
    "model": ModelParams,
    "prompt": PromptParams,
    "runtime": RuntimeParams,
    "split": SplitParams,
    "augment": AugmentParams,
    "quality": QualityParams,
    "train": TrainParams,
    "pairs": PairsParams,
    "prefer": PreferParams,
    "baseline": BaselineParams,
    "generate": GenerateParams,
    "evaluate": EvaluateParams,
    "servers": ServersParams,
    "plot": PlotParams,
    "serve": ServeParams,
}


def check_params(path: Path = PARAMS_FILE) -> tuple[dict[str, Any], list[str]]:
    """Every section as its dataclass, and all problems at once, one line each."""
    problems = []
    settings: dict[str, Any] = {}
    given = read_params(path)
    misspelt = set()
    for name in given:
        if name not in SECTIONS:
            nearest = get_close_matches(str(name), [one for one in SECTIONS if one not in given], n=1, cutoff=0.5)
            misspelt |= set(nearest)
            hint = f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(SECTIONS)}"
            problems.append(f"{path}: {name} is not a section{hint}")
    for name, cls in SECTIONS.items():
        if name in misspelt:
            continue
        try:
            settings[name] = load_params(name, cls, path)
        except InstructError as error:
            problems.append(str(error))
    return settings, problems


def left_over(
    methods: Sequence[str], folder: Path = Path("data/preferred"), metrics: Path = Path("metrics/preferred")
) -> list[str]:
    """A problem for each file that `evaluate` or `plot` would read although preference tuning is off."""
    answers = [path for path in sorted(folder.glob("*.json")) if path.stem not in methods]
    numbers = [] if methods else sorted([*metrics.glob("*.json"), *metrics.glob("*.csv")])
    return [
        f"{path}: is left over, prefer.methods does not name it; run `dvc checkout`, or remove it" for path in answers
    ] + [f"{path}: is left over, prefer.methods is empty; remove it" for path in numbers]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The lines to print, and the problems (empty if there are none)."""

    lines: list[str]
    problems: list[str]

    def add(self, found: Callable[[], tuple[list[str], list[str]]]) -> None:
        """Add lines and problems of one check; an error in it is one more problem and hides no other check."""
        try:
            lines, problems = found()
        except InstructError as error:
            lines, problems = [], [str(error)]
        self.lines.extend(lines)
        self.problems.extend(one for one in problems if one not in self.problems)


def check_all(data: Path | None, *, every: bool = False) -> Checked:
    """All settings, files and problems; lists `every` setting, or those that differ from the commit."""
    settings, problems = check_params()
    checked = Checked(lines=setting_lines(settings, PARAMS_FILE, every=every, sound=not problems), problems=problems)
    if "model" in settings:
        checked.add(lambda: (backbone_lines(settings["model"].backbone), []))
    if "prefer" in settings:
        checked.add(lambda: ([], left_over(settings["prefer"].methods)))
    checked.problems.extend(stops(settings))
    if source := data or (Path(settings["split"].data) if "split" in settings else None):
        _check_data(checked, source, settings, own=data is None)
    return checked


def setting_lines(settings: Mapping[str, Any], path: Path, *, every: bool, sound: bool = True) -> list[str]:
    """The settings that differ from the committed ones, or `every` one; all if nothing is committed.

    That none differs is only said of a `sound` file, of which all sections can be read.
    """
    now = flatten({name: asdict(values) for name, values in settings.items()})
    before = None if every else _committed(path)
    if before is None:
        return [f"{key} = {value}" for key, value in now.items()]
    changed = [
        f"{key} = {value} (committed: {before.get(key, 'not set')})"
        for key, value in now.items()
        if str(before.get(key, "not set")) != str(value)
    ]
    same = [f"{path}: all settings are as committed; `instruct check --all` prints them"] if sound else []
    return changed or same


def _committed(path: Path) -> dict[str, Any] | None:
    """The settings of HEAD by dotted name; None if they are missing or cannot be read."""
    text = ask_git(path.parent, "show", f"HEAD:./{path.name}")
    try:
        values = mapping(parse_yaml(text, "HEAD")) if text is not None else {}
    except DataError:
        return None
    sections: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        try:
            sections[name] = asdict(build(cls, values.get(name), where="HEAD"))
        except ParamsError:  # a section of another version: its values as they are
            sections[name] = mapping(values.get(name))
    return flatten(sections) or None


def backbone_lines(name: str) -> list[str]:
    """The backbone in use, and which of its files will be fetched."""
    backbone = find_backbone(name)
    if not_pinned := unpinned(backbone):
        raise BackboneError(pin_first(backbone, not_pinned))
    missing = [file.name for file in backbone.files if verify_size(backbone.folder / file.name, file.size)]
    state = f"will be fetched: {', '.join(missing)}" if missing else "here"
    return [f"backbone {backbone.name} ({backbone.licence}): {backbone.about}; {state}"]


def _check_data(checked: Checked, source: Path, settings: Mapping[str, Any], *, own: bool) -> None:
    """The records of a file: their form, the split, their quality, and whether there is room for them."""
    if own and not source.exists():
        checked.problems.append(f"{source}: there is no such file; put your data there, or correct split.data")
        return
    rows = Rows(source, settings["split"].columns if "split" in settings else USUAL)
    try:
        examples, bad = part_rows(rows)
    except InstructError as error:
        checked.problems.append(str(error))
        return
    found = problem_lines(bad)
    dropped = "split" in settings and settings["split"].invalid == "drop" and own
    (checked.lines if dropped else checked.problems).extend(found)
    checked.lines.append(f"{source}: {len(examples)} records valid, {len(bad)} not")
    checked.lines.extend(left_out_lines(rows))
    checks, unmatched = _known_checks(rows, examples, settings.get("split"))
    asked = with_checks(examples, checks)
    checked.lines.extend([*reference_lines(source, asked), *unit_lines(source, asked), *common_lines(source, examples)])
    if own:
        checked.lines.extend(unmatched)
        checked.add(lambda: (tracking_lines(Path.cwd(), source), []))
    if "split" in settings and not (bad and not dropped):
        checked.add(lambda: (split_lines(source, examples, settings["split"]), []))
    if examples and {"model", "prompt", "quality", "train", "generate"} <= set(settings):
        checked.add(lambda: look_at_records(source, examples, bad, settings, full=not own))


def _known_checks(rows: Rows, examples: list[Example], params: SplitParams | None) -> tuple[Checks, list[str]]:
    """The checks of the records, and a warning if some of `split.checks` match none.

    If that file is not valid, which `stops` reports, the records' own checks.
    """
    if params is None:
        return rows.checks, []
    try:
        checks, unknown = join_checks(Path(params.checks), rows.checks, examples)
    except DataError:
        return rows.checks, []
    return checks, unmatched_lines(Path(params.checks), unknown, rows.path)


def split_lines(source: Path, examples: list[Example], params: SplitParams) -> list[str]:
    """The sizes of the parts, and the warnings that readers of the score should know."""
    division = divide(examples, params)
    counts = summarise(division, examples, params, refused=0)
    sizes = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    return [f"{source}: {sizes}", *find_warnings(division, counts, examples, params)]


def tracking_lines(root: Path, data: Path) -> list[str]:
    """A warning for data that a clone or a temporary experiment would lack, with the command that helps."""
    if ask_git(root, "rev-parse", "--is-inside-work-tree") is None or not data.is_file():
        return []
    return [f"warning: {line}" for line in untracked(root, [str(data)])]


def look_at_records(
    source: Path, examples: list[Example], bad: Container[int], settings: Mapping[str, Any], *, full: bool
) -> tuple[list[str], list[str]]:
    """Quality findings, and records that are too long for backbone, training or generation.

    A `full` check lists all findings and counts with the backbone's tokenizer, if it exists; a brief one counts with
    GPT-2's, which takes less than a second and is close.
    """
    from instruct.tools.quality import brief_lines, check_file, full_lines

    backbone = find_backbone(settings["model"].backbone)
    here = not any(verify_size(backbone.folder / file.name, file.size) for file in backbone.files)
    tokenizer, context = _tokenizer(backbone, exact=full and here)
    template = settings["prompt"].chosen
    report = check_file(source, examples, bad, settings["quality"], template, tokenizer if full and here else None)
    lines, problems = full_lines(source, report) if full else brief_lines(source, report)
    room = Room(train=settings["train"], generate=settings["generate"], context=context, exact=full and here)
    lengths = count_lengths(examples, template, tokenizer)
    warnings, stops = limit_lines(lengths, room)
    train_records = int(len(examples) * settings["split"].train) if "split" in settings else len(examples)
    mean = sum(one.total for one in lengths) / len(lengths)
    return [*lines, *warnings, *warmup_lines(settings["train"], train_records, mean)], problems + stops


def _tokenizer(backbone: Backbone, *, exact: bool) -> tuple[Tokenizer, int | None]:
    """The backbone's tokenizer and context, or GPT-2's and what can be known without torch."""
    if exact:
        from instruct.model.pretrained import open_tokenizer

        return open_tokenizer(backbone)
    config = backbone.folder / "config.json"
    known = mapping(read_json(config)) if config.is_file() else backbone.config
    return gpt2_tokenizer(), context_without_weights(known, backbone.family)


def verify_size(path: Path, size: int | None) -> bool:
    """Whether a file is missing or of another size; the sha256 is checked when it is loaded."""
    return not path.is_file() or path.stat().st_size != size
