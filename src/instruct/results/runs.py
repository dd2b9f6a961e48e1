"""A run, wherever it is: a revision, a DVC experiment, the workspace or a folder, read from what Git tracks.

Nothing here needs data, a DVC cache or the network, so a shallow clone is enough.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError
from instruct.core.files import parse_csv
from instruct.core.parsing import flatten, is_number, mapping, parse_json, parse_yaml
from instruct.results.lock import LOCK, PARAMS, md5s_of, stale_lines
from instruct.results.revisions import WORKSPACE, Revision, find_commit, read_files
from instruct.results.schema import Results, load
from instruct.results.table import Scores, Table, load_table

EVALUATE, SCORES, TRAIN = "metrics/evaluate.json", "metrics/scores.csv", "metrics/train.json"
SPLIT, QUALITY = "metrics/split.json", "metrics/data.json"
CURVES = {part: f"metrics/curves/{part}.csv" for part in ("train", "val")}
PAIRS, PREFER, REWARDS = (f"metrics/preferred/{name}" for name in ("pairs.json", "prefer.json", "val.csv"))
NUMBERS = {
    TRAIN: ("steps", "best_step", "initial_val_loss", "best_val_loss", "last_val_loss", "last_train_loss"),
    SPLIT: ("train", "val", "test"),
}
"""What other stages write and readers of a run rely on."""
LEAKS = {"near": "a near-duplicate", "equal": "an equal prompt", "turn": "the last turn"}
"""What a test record may have in train, by its name in metrics/split.json."""
PREFERRED = (PAIRS, PREFER, REWARDS)
"""What preference tuning writes where it is switched on."""
MEASURED = (EVALUATE, SCORES, TRAIN, SPLIT, QUALITY, *CURVES.values(), *PREFERRED)
IN_GIT = (PARAMS, LOCK, *MEASURED)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run left in Git. `commit` is empty for the workspace or a folder.

    What other stages wrote is empty where they did not run: `train`, `split`, `quality` and `curves`, whose numbers may
    be NaN, and of preference tuning `pairs`, `prefer` and `rewards`, the curve on held-out pairs. `stale` says by what
    the results are not those of the settings beside them. `baseline` names the system whose answers this stands for if
    that is not the one the run is about.
    """

    name: str
    commit: str = ""
    params: dict[str, Any]
    results: Results
    table: Table
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    lock: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)
    prefer: dict[str, Any] = field(default_factory=dict)
    rewards: list[dict[str, float]] = field(default_factory=list)
    stale: tuple[str, ...] = ()
    baseline: str = ""

    @property
    def system(self) -> str:
        """The system whose answers are compared with those of other runs."""
        return self.baseline or self.results.primary

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores of those answers by score name and record id."""
        return {name: systems[self.system] for name, systems in self.table.scores.items() if self.system in systems}

    @property
    def groups(self) -> dict[str, str]:
        """Each record's group of near-duplicates."""
        return self.table.groups

    @property
    def kinds(self) -> dict[str, str]:
        return self.table.kinds

    @property
    def leak(self) -> str:
        """What the split says of test records that are also in train, in words; empty where there are none."""
        found = mapping(mapping(self.split.get("across")).get("test"))
        counts = {name: one if isinstance(one := found.get(name), int) else 0 for name in LEAKS}
        name = max(LEAKS, key=lambda one: counts[one])
        if (count := counts[name]) <= 0:
            return ""
        has = f"{'has' if count == 1 else 'have'} {LEAKS[name]} in train"
        return f"{count} of {self.split['test']} test records {has}: this score measures memory too"


def read_run(name: str, root: Path) -> Run:
    """Read the run that `name` means.

    Raises ParamsError for a name that means nothing, DataError where metrics are missing or damaged.
    """
    commit = "" if name == WORKSPACE else find_commit(name, root)
    (files,) = read_files(root, [Revision(name=name, kind="", commit=commit)], IN_GIT)
    return load_run(name, files, commit=commit)


def load_run(name: str, files: Mapping[str, bytes], *, commit: str = "") -> Run:
    """The run that these files hold; raises DataError that names the file, the run and what is wrong."""
    texts = {path: content.decode("utf-8", "replace").removeprefix("\ufeff") for path, content in files.items()}
    for path in (EVALUATE, SCORES):
        if path not in texts:
            raise DataError(f"{name}: lacks {path}; run `dvc repro` there and commit what it leaves in metrics")
    results = load(texts[EVALUATE], f"{EVALUATE} of {name}")
    params, lock = (mapping(parse_yaml(texts.get(path, ""), f"{path} of {name}")) for path in (PARAMS, LOCK))
    return Run(
        name=name.encode("utf-8", "replace").decode(),  # a name that is not UTF-8 would break every report
        commit=commit,
        params=params,
        results=results,
        table=load_table(texts[SCORES], f"{SCORES} of {name}", results),
        curves={part: _curve(texts[path], f"{path} of {name}") for part, path in CURVES.items() if path in texts},
        lock=lock,
        train=_document(texts, TRAIN, name),
        split=_document(texts, SPLIT, name),
        quality=_document(texts, QUALITY, name),
        pairs=_document(texts, PAIRS, name),
        prefer=_document(texts, PREFER, name),
        rewards=_curve(texts[REWARDS], f"{REWARDS} of {name}") if REWARDS in texts else [],
        stale=tuple(stale_lines(params, _digests(files, results), lock)),
    )


def _digests(files: Mapping[str, bytes], results: Results) -> dict[str, frozenset[str]]:
    """The md5s that every file of a run may have, and that of the answers as they were when they were judged."""
    return {path: md5s_of(content) for path, content in files.items()} | {
        one.answers: frozenset([one.md5]) for one in results.systems
    }


def all_stale_lines(runs: Iterable[Run]) -> list[str]:
    """By what the results of these runs are not those of their settings, each line with the run's name."""
    return list(dict.fromkeys(f"{run.name}: {line}" for run in runs for line in run.stale))


def all_leak_lines(runs: Iterable[Run]) -> list[str]:
    """What the splits of these runs say of test records that are also in train, each line with its runs' names."""
    names: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.leak:
            names.setdefault(run.leak, {})[run.name] = None
    return [f"{', '.join(own)}: {line}" for line, own in names.items()]


def changed_params(a: Run, b: Run) -> dict[str, tuple[str, str]]:
    """Settings that differ, with both values; a setting that one run lacks is `absent` there."""
    one, other = flatten(a.params), flatten(b.params)
    absent = object()
    return {
        name: (str(one.get(name, "absent")), str(other.get(name, "absent")))
        for name in sorted({*one, *other})
        if one.get(name, absent) != other.get(name, absent)
    }


def _document(texts: Mapping[str, str], path: str, name: str) -> dict[str, Any]:
    """What another stage wrote; empty where it wrote nothing."""
    if path not in texts:
        return {}
    values = parse_json(texts[path], f"{path} of {name}")
    if not isinstance(values, dict):
        raise DataError(f"{path} of {name}: must be an object; run `dvc repro` there")
    values |= _details(values.pop("details", []))
    for key in NUMBERS.get(path, ()):
        value = values.get(key)
        if not is_number(value) or not isfinite(value):
            raise DataError(f"{path} of {name}: {key} must be a finite number; run `dvc repro` there")
    return values


def _details(found: Any) -> dict[str, Any]:
    """What is in a list only to stay out of DVC's tables; empty if it has another shape."""
    return mapping(found[0]) if isinstance(found, list) and found else {}


def _curve(text: str, where: str) -> list[dict[str, float]]:
    """The rows of a curve as numbers, with `step` and `loss` in each; raises DataError where there are none."""
    columns, rows = parse_csv(text, where)
    if not rows:
        raise DataError(f"{where}: holds no steps; run `dvc repro` there")
    if not {"step", "loss"} <= set(columns):
        raise DataError(f"{where}: lacks the columns step and loss; run `dvc repro` there")
    curve = []
    for line, row in enumerate(rows, start=2):
        try:
            curve.append({name: float(row[name]) for name in columns})
        except (TypeError, ValueError):
            raise DataError(f"{where}:{line}: holds a value that is not a number; run `dvc repro` there") from None
    return curve
