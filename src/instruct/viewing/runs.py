"""One run as its files tell it, from whichever revision they come; what cannot be read is said in words."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from instruct.comparing.runs import flatten
from instruct.errors import DataError
from instruct.plotting.results import by_judge, main_judge, scores_of
from instruct.viewing.revisions import Revision

METRICS = ("metrics/evaluate.json", "metrics/train.json", "metrics/split.json", "metrics/scores.csv")
CURVES = {"train": "metrics/curves/train.csv", "val": "metrics/curves/val.csv"}
ANSWERS = {"base": "data/base_responses.json", "tuned": "data/responses.json"}
JUDGEMENTS = "data/judgements.json"
IN_GIT = ("params.yaml", "dvc.lock", *METRICS, *CURVES.values())
Scores = dict[tuple[str, str], float | None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of one run; `missing` says in words what is not, and why."""

    revision: Revision
    params: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    records: list[dict[str, str]] = field(default_factory=list)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The revision's name."""
        return self.revision.name

    @property
    def judge(self) -> str:
        """The judge whose scores come first; empty where nothing was judged."""
        return main_judge(self.evaluate) if self.evaluate else ""


def read_run(revision: Revision, files: Mapping[str, bytes]) -> Run:
    """Read a run from the contents of its files; only what is there is used."""
    missing: list[str] = []
    params = _params(files, missing)
    results = _results(files, missing)
    train = _json(files, "metrics/train.json", missing)
    rows = _csv(files, "metrics/scores.csv") if "metrics/scores.csv" in files else []
    curves = {name: _csv(files, path) for name, path in CURVES.items() if path in files}
    answers = {system: _list(files, path, missing) for system, path in ANSWERS.items() if path in files}
    judgements = _list(files, JUDGEMENTS, missing) if JUDGEMENTS in files else []
    if results and len([one for one in answers.values() if one]) < len(ANSWERS):
        answers = {}
        missing.append("answers not in DVC's cache; `dvc fetch` brings them")
    columns = dict.fromkeys(name.rpartition(".")[0] for name in (rows[0] if rows else {}) if "." in name)
    scores = {name: _scores(name, rows, judgements) for name in {**results.get("judges", {}), **columns}}
    records = [{key: row.get(key) or "" for key in ("id", "kind", "group")} for row in rows if row.get("id")]
    return Run(
        revision=revision,
        params=params,
        train=train if isinstance(train, dict) else {},
        evaluate=results,
        curves=curves,
        records=records,
        answers=answers,
        scores=scores,
        missing=missing,
    )


def _params(files: Mapping[str, bytes], missing: list[str]) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(_text(files["params.yaml"]))
        return flatten(values)
    except KeyError:
        missing.append("no params.yaml")
    except (YAMLError, AttributeError):
        missing.append("params.yaml cannot be read")
    return {}


def _results(files: Mapping[str, bytes], missing: list[str]) -> dict[str, Any]:
    found = _json(files, "metrics/evaluate.json", missing)
    try:
        return by_judge(found) if isinstance(found, dict) and found else {}
    except DataError:
        missing.append("metrics/evaluate.json is of no known shape")
        return {}


def _scores(judge: str, rows: list[dict[str, str]], judgements: list[dict[str, Any]]) -> Scores:
    try:
        return scores_of(judge, rows, judgements)
    except (KeyError, ValueError, TypeError):
        return {}


def _json(files: Mapping[str, bytes], path: str, missing: list[str]) -> Any:
    if path not in files:
        missing.append(f"no {path}")
        return {}
    try:
        return json.loads(_text(files[path]))
    except ValueError:
        missing.append(f"{path} is not JSON")
        return {}


def _list(files: Mapping[str, bytes], path: str, missing: list[str]) -> list[dict[str, Any]]:
    rows = _json(files, path, missing)
    return [row for row in rows if isinstance(row, dict) and "id" in row] if isinstance(rows, list) else []


def _csv(files: Mapping[str, bytes], path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(_text(files[path]))))


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace").removeprefix("\ufeff")
