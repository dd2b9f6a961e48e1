"""A run, wherever it lies: a revision, a DVC experiment or the workspace, read from what Git tracks.

Nothing here needs data, a DVC cache or the network, so a shallow clone is enough.
"""

import csv
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import md5
from io import StringIO
from pathlib import Path
from typing import Any

from instruct.core.errors import DataError, ParamsError
from instruct.core.files import readable
from instruct.core.git import ask_git, call_git, complaint_of, list_experiments, read_git
from instruct.core.parsing import mapping, parse_json, parse_yaml

WORKSPACE = "workspace"
KEYS = ("id", "kind", "group")
PARAMS, LOCK = "params.yaml", "dvc.lock"
EVALUATE, SCORES, TRAIN = "metrics/evaluate.json", "metrics/scores.csv", "metrics/train.json"
CURVES = {part: f"metrics/curves/{part}.csv" for part in ("train", "val")}
SHOWN = 60  # characters of a setting


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run left in Git. `commit` is empty for the workspace.

    `scores` are by score name and record id, of the tuned model's answers; `groups` and `kinds` are by record id.
    `stale` says by what the results are not those of the settings beside them; empty where dvc.lock fits or is absent.
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
    stale: tuple[str, ...] = ()


def read_run(name: str, root: Path) -> Run:
    """Read the run that `name` means.

    Raises ParamsError for a name that means nothing, DataError where metrics are missing or not readable.
    """
    commit = "" if name == WORKSPACE else find_commit(name, root)
    read = {path: _content(commit, path, root) for path in (PARAMS, EVALUATE, SCORES, TRAIN, LOCK, *CURVES.values())}
    contents = {path: content for path, content in read.items() if content is not None}
    texts = {path: content.decode("utf-8", "replace").removeprefix("\ufeff") for path, content in contents.items()}
    for path in (EVALUATE, SCORES):
        if path not in texts:
            raise DataError(f"{name}: holds no {path}; run `dvc repro` there and commit what it leaves in metrics")
    scores, groups, kinds = read_scores(texts[SCORES], f"{SCORES} of {name}")
    params, lock = (mapping(parse_yaml(texts.get(path, ""), f"{path} of {name}")) for path in (PARAMS, LOCK))
    return Run(
        name=name.encode("utf-8", "replace").decode(),  # a name that is no UTF-8 would break every report
        commit=commit,
        params=params,
        evaluate=read_results(parse_json(texts[EVALUATE], f"{EVALUATE} of {name}"), f"{EVALUATE} of {name}"),
        scores=scores,
        groups=groups,
        kinds=kinds,
        curves={part: _curve(texts[path], f"{path} of {name}") for part, path in CURVES.items() if texts.get(path)},
        lock=lock,
        train=mapping(parse_json(texts.get(TRAIN) or "{}", f"{TRAIN} of {name}")),
        stale=tuple(dict.fromkeys([*_other_settings(params, lock), *_other_bytes(contents, lock)])),
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


def _content(commit: str, path: str, root: Path) -> bytes | None:
    if commit:
        return read_git(root, "show", f"{commit}:./{path}")  # beneath `root`, which may be a folder of the repository
    file = root / path
    if not file.is_file():
        return None
    with readable(file):
        return file.read_bytes()


def read_results(values: Any, where: str) -> dict[str, Any]:
    """What `evaluate` wrote, its parts of the kinds that they have there; single numbers may still be anything."""
    parts = [values.get(part) for part in ("test", "judges", "reference")] if isinstance(values, dict) else [None]
    if all(isinstance(part, dict) for part in parts):
        judges = list(values["judges"].values())
        parts += [values["reference"].get("signatures", {}), *judges]
        keys = ("identity", "base", "tuned", "difference")
        parts += [judge.get(key, {}) for judge in judges if isinstance(judge, dict) for key in keys]
    if not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{where}: is not of the shape that `dvc repro evaluate` writes today; run it there")
    return dict(values)


def lock_outs(lock: Mapping[str, Any]) -> dict[str, str]:
    """The md5 of every output that dvc.lock names, by path; empty for one that has none."""
    outs = [out for stage in _stages(lock) for out in stage.get("outs") or [] if isinstance(out, dict)]
    return {str(out["path"]): str(out.get("md5") or "") for out in outs if "path" in out}


def fits_lock(content: bytes, path: str, lock: Mapping[str, Any]) -> bool:
    """Whether a file is the one that dvc.lock names; one that it does not name fits."""
    recorded = lock_outs(lock).get(path)
    return not recorded or md5(content, usedforsecurity=False).hexdigest() == recorded


def stale_lines(runs: Iterable[Run]) -> list[str]:
    """By what the results of these runs are not those of their settings, each line with the run's name."""
    return list(dict.fromkeys(f"{run.name}: {line}" for run in runs for line in run.stale))


def _stages(lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [stage for stage in mapping(lock.get("stages")).values() if isinstance(stage, dict)]


def _other_settings(params: Mapping[str, Any], lock: Mapping[str, Any]) -> Iterator[str]:
    """Settings that stand in params.yaml otherwise than the stages of dvc.lock were run with."""
    now = flatten(params)
    absent = object()
    for stage in _stages(lock):
        for key, value in mapping(mapping(stage.get("params")).get(PARAMS)).items():
            then = flatten({key: value})
            for name in dict.fromkeys([*then, *(one for one in now if one == key or one.startswith(f"{key}."))]):
                if now.get(name, absent) != then.get(name, absent):
                    one, other = (_short(side[name]) if name in side else "absent" for side in (now, then))
                    yield f"{name} is {one} in {PARAMS}, {other} in {LOCK}: run dvc repro"


def _other_bytes(contents: Mapping[str, bytes], lock: Mapping[str, Any]) -> Iterator[str]:
    for path, content in contents.items():
        if not fits_lock(content, path, lock):
            yield f"{path} is not the one of {LOCK}: run dvc repro"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def read_scores(text: str, where: str) -> tuple[dict[str, dict[str, float | None]], dict[str, str], dict[str, str]]:
    """Scores of the tuned model by name and id, and each record's group and kind."""
    columns, rows = _table(text, where)
    names = [name.removesuffix(".tuned") for name in columns if name.endswith(".tuned")]
    if not names or not set(KEYS) <= set(columns):
        raise DataError(f"{where}: has not the columns id, kind, group and scores; run `dvc repro evaluate` there")
    scores: dict[str, dict[str, float | None]] = {name: {} for name in names}
    groups: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        id_ = row["id"]
        if not id_:
            raise DataError(f"{where}:{line}: holds no id; run `dvc repro evaluate` there")
        if id_ in groups:
            raise DataError(f'{where}:{line}: the id "{id_}" stands there twice; run `dvc repro evaluate` there')
        groups[id_] = row["group"] or f"\x1f{id_}"  # a record without a group is its own
        kinds[id_] = row["kind"] or ""
        for name in names:
            scores[name][id_] = _score(row[f"{name}.tuned"], f"{where}:{line}: {name}.tuned")
    if not groups:
        raise DataError(f"{where}: holds no record; run `dvc repro evaluate` there")
    return scores, groups, kinds


def _curve(text: str, where: str) -> list[dict[str, str]]:
    """The rows of a curve, each with a number in `step` and in `loss`."""
    _, rows = _table(text, where)
    for line, row in enumerate(rows, start=2):
        try:
            float(row["step"]), float(row["loss"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{where}:{line}: holds no step and loss; run `dvc repro train` there") from None
    return rows


def _table(text: str, where: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a CSV text, its lines ended by LF, CRLF or CR."""
    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        return list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num + 1}: not CSV ({error}); run `dvc repro` there") from None


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
