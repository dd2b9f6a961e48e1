"""A run, wherever it lies: a revision, a DVC experiment or the workspace, read from what Git tracks.

Nothing here needs data, a DVC cache or the network, so a shallow clone is enough.
"""

import csv
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from instruct.errors import DataError, ParamsError
from instruct.git import ask_git, call_git, complaint_of, list_experiments

WORKSPACE = "workspace"
KEYS = ("id", "kind", "group")
EVALUATE, SCORES, TRAIN = "metrics/evaluate.json", "metrics/scores.csv", "metrics/train.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run left in Git. `commit` is empty for the workspace.

    `scores` are by score name and record id, of the tuned model's answers; `groups` and `kinds` are by record id.
    """

    name: str
    commit: str
    params: dict[str, Any]
    evaluate: dict[str, Any]
    scores: dict[str, dict[str, float | None]]
    groups: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    lock: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


def read_run(name: str, root: Path) -> Run:
    """Read the run that `name` means.

    Raises ParamsError for a name that means nothing, DataError where metrics are missing or not readable.
    """
    commit = "" if name == WORKSPACE else find_commit(name, root)
    files = {path: _content(commit, path, root) for path in ("params.yaml", EVALUATE, SCORES, TRAIN, "dvc.lock")}
    for path in (EVALUATE, SCORES):
        if files[path] is None:
            raise DataError(f"{name}: holds no {path}; run `dvc repro` there and commit what it leaves in metrics")
    evaluate = _json(files[EVALUATE] or "", f"{EVALUATE} of {name}")
    scores, groups, kinds = _scores(files[SCORES] or "", f"{SCORES} of {name}")
    curves = {part: _content(commit, f"metrics/curves/{part}.csv", root) for part in ("train", "val")}
    return Run(
        name=name,
        commit=commit,
        params=_yaml(files["params.yaml"] or "", f"params.yaml of {name}"),
        evaluate=evaluate,
        scores=scores,
        groups=groups,
        kinds=kinds,
        curves={part: _curve(text, f"metrics/curves/{part}.csv of {name}") for part, text in curves.items() if text},
        lock=_yaml(files["dvc.lock"] or "", f"dvc.lock of {name}"),
        train=_yaml(files[TRAIN] or "", f"{TRAIN} of {name}"),
    )


def find_commit(name: str, root: Path) -> str:
    """The commit of a revision, else of the DVC experiment of this name, else of the branch of this name on origin."""
    if commit := _commit_of(name, root):
        return commit
    named = [one for one in list_experiments(root) if one.name == name]
    head = (ask_git(root, "rev-parse", "HEAD") or "").strip()
    found = {one.commit for one in named if one.baseline == head} or {one.commit for one in named}
    if len(found) == 1:
        return found.pop()
    if found:
        raise ParamsError(f'"{name}" names {len(found)} experiments; give the commit, `dvc exp list -A` shows them')
    if commit := _commit_of(f"refs/remotes/origin/{name}", root):
        return commit
    there = call_git(root, "rev-parse", "--git-dir")
    if there.returncode:
        said = complaint_of(there)
        if "not a git repository" in said:
            raise ParamsError(f"{root.name}: is not a Git repository; run inside a clone")
        raise ParamsError(f"{root.name}: Git refuses this folder: {said}")
    remedies = f"{_how_to_bring(name, root)}, `dvc exp list -A` shows experiments"
    raise ParamsError(f'there is no revision or experiment "{name}"; {remedies}')


def _commit_of(revision: str, root: Path) -> str:
    """The commit that Git knows by this name, or nothing; `^main`, which is all that main does not hold, is none."""
    said = ask_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}") or ""
    return said.strip() if re.fullmatch(r"[0-9a-f]{40,64}", said.strip()) else ""


def _how_to_bring(name: str, root: Path) -> str:
    """What brings a revision that this clone lacks: a fetch where the clone is shallow and the name can be one's."""
    if (ask_git(root, "rev-parse", "--is-shallow-repository") or "").strip() != "true":
        return "see `git branch -a`"
    branch, *steps = re.split(r"(?=[~^])", name)
    if steps and _commit_of(branch, root):
        return "this clone is shallow: `git fetch --deepen 50` brings older commits"
    if ask_git(root, "check-ref-format", "--branch", branch) is None:
        return "see `git branch -a`"
    source = shlex.quote(f"+refs/heads/{branch}:refs/remotes/origin/{branch}")
    depth = "--depth 50" if steps else "--depth 1"
    return f"this clone is shallow: `git fetch {depth} origin {source}` brings a branch"


def _content(commit: str, path: str, root: Path) -> str | None:
    if commit:
        return ask_git(root, "show", f"{commit}:./{path}")  # beneath `root`, which may be a folder of the repository
    file = root / path
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}:{error.lineno}: not JSON ({error.msg}); run `dvc repro evaluate`") from None
    parts = ("test", "judges", "reference")
    if not isinstance(values, dict) or not all(isinstance(values.get(part), dict) for part in parts):
        raise DataError(f"{where}: is not of the shape that `dvc repro evaluate` writes today; run it there")
    return values


def _yaml(text: str, where: str) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(text) or {}
    except YAMLError:
        raise DataError(f"{where}: is not YAML; correct it") from None
    return values if isinstance(values, dict) else {}


def _scores(text: str, where: str) -> tuple[dict[str, dict[str, float | None]], dict[str, str], dict[str, str]]:
    """Scores of the tuned model by name and id, and each record's group and kind."""
    rows = csv.DictReader(StringIO(text))
    names = [name.removesuffix(".tuned") for name in rows.fieldnames or () if name.endswith(".tuned")]
    if not names or not set(KEYS) <= set(rows.fieldnames or ()):
        raise DataError(f"{where}: has not the columns id, kind, group and scores; run `dvc repro evaluate` there")
    scores: dict[str, dict[str, float | None]] = {name: {} for name in names}
    groups: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        id_ = row["id"]
        if id_ in groups:
            raise DataError(f'{where}:{line}: the id "{id_}" stands there twice; run `dvc repro evaluate` there')
        groups[id_] = row["group"] or f"\x1f{id_}"  # a record without a group is its own
        kinds[id_] = row["kind"]
        for name in names:
            scores[name][id_] = _score(row[f"{name}.tuned"], f"{where}:{line}: {name}.tuned")
    if not groups:
        raise DataError(f"{where}: holds no record; run `dvc repro evaluate` there")
    return scores, groups, kinds


def _curve(text: str, where: str) -> list[dict[str, str]]:
    """The rows of a curve, each with a number in `step` and in `loss`."""
    rows = list(csv.DictReader(StringIO(text)))
    for line, row in enumerate(rows, start=2):
        try:
            float(row["step"]), float(row["loss"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{where}:{line}: holds no step and loss; run `dvc repro train` there") from None
    return rows


def _score(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 100:
        raise DataError(f'{where}: "{text}" is no number from 0 to 100; run `dvc repro evaluate` there')
    return score


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def changed_params(a: Run, b: Run) -> dict[str, tuple[str, str]]:
    """Settings that differ, with both values; a setting that one run lacks is `absent` there."""
    one, other = flatten(a.params), flatten(b.params)
    names = sorted({*one, *other})
    absent = object()
    return {
        name: tuple("absent" if name not in side else str(side[name]) for side in (one, other))  # type: ignore[misc]
        for name in names
        if one.get(name, absent) != other.get(name, absent)
    }
