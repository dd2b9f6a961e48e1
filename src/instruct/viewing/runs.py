"""One run as its files tell it, from whichever revision they come; what cannot be read is said in words."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from instruct.comparing.runs import CURVES, EVALUATE, SCORES, TRAIN, flatten, read_results, read_scores
from instruct.comparing.runs import Run as Comparable
from instruct.core.errors import DataError
from instruct.core.parsing import mapping
from instruct.plotting.results import by_judge, main_judge, scores_of
from instruct.viewing.revisions import Revision

ANSWERS = {"base": "data/base_responses.json", "tuned": "data/responses.json"}
JUDGEMENTS = "data/judgements.json"
IN_GIT = ("params.yaml", "dvc.lock", EVALUATE, TRAIN, SCORES, *CURVES.values())
LOSSES = ("best_val_loss", "last_train_loss", "steps")
Scores = dict[tuple[str, str], float | None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of one run; `missing` says in words what is not, and why.

    `comparable` is the run as `instruct compare` reads it, None where it would refuse to, for the reason in `refusal`.
    """

    revision: Revision
    params: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    records: list[dict[str, str]] = field(default_factory=list)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    comparable: Comparable | None = None
    refusal: str = ""
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
    found = _json(files, EVALUATE, missing)
    results = _results(found, missing) if found != {} else {}
    train = _json(files, TRAIN, missing)
    if train != {}:
        missing += _absent(train, TRAIN, LOSSES)
    rows = _csv(files, SCORES, missing)
    curves = {name: _csv(files, path, missing) for name, path in CURVES.items() if path in files}
    missing += [line for name, curve in curves.items() for line in _gaps(curve, CURVES[name])]
    answers = {system: _list(files, path, missing) for system, path in ANSWERS.items() if path in files}
    judgements = _list(files, JUDGEMENTS, missing) if JUDGEMENTS in files else []
    if results and len([one for one in answers.values() if one]) < len(ANSWERS):
        answers = {}
        missing.append("answers not in DVC's cache; `dvc fetch` brings them")
    columns = dict.fromkeys(name.rpartition(".")[0] for name in (rows[0] if rows else {}) if "." in name)
    names = {**results.get("judges", {}), **columns}
    comparable, refusal = None, f"no {next((path for path in (EVALUATE, SCORES) if path not in files), '')}"
    if EVALUATE in files and SCORES in files:
        try:
            comparable, refusal = _comparable(revision, params, found, _text(files[SCORES])), ""
        except (DataError, csv.Error) as error:
            refusal = str(error)
            missing.append(refusal)
    return Run(
        revision=revision,
        params=params,
        train=train if isinstance(train, dict) else {},
        evaluate=results,
        curves=curves,
        records=[{key: row.get(key) or "" for key in ("id", "kind")} for row in rows if row.get("id")],
        answers=answers,
        scores={name: _scores_of(name, rows, judgements) for name in names},
        comparable=comparable,
        refusal=refusal,
        missing=list(dict.fromkeys(missing)),
    )


def finite(value: Any) -> float | None:
    """A number that JSON or a table may hold; None for what is none, or not finite."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if good else None


def _comparable(revision: Revision, params: dict[str, Any], found: Any, table: str) -> Comparable:
    """The run as `instruct compare` reads it; raises DataError where that refuses."""
    scores, groups, kinds = read_scores(table, SCORES)
    return Comparable(
        name=revision.name,
        commit=revision.commit,
        params=params,
        evaluate=read_results(found, EVALUATE),
        scores=scores,
        groups=groups,
        kinds=kinds,
    )


def _params(files: Mapping[str, bytes], missing: list[str]) -> dict[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(_text(files["params.yaml"]))
        return flatten(values)
    except KeyError:
        missing.append("no params.yaml")
    except (YAMLError, AttributeError, ValueError, RecursionError):
        missing.append("params.yaml cannot be read")
    return {}


def _results(found: Any, missing: list[str]) -> dict[str, Any]:
    """Results by judge; what is no mapping in them is an empty one, and each number that is absent is named."""
    try:
        results = by_judge(mapping(found))
    except DataError:
        missing.append(f"{EVALUATE} is of no known shape")
        return {}
    judges = {}
    for name, judge in results["judges"].items():
        parts = {part: mapping(mapping(judge).get(part)) for part in ("tuned", "difference")}
        judges[name] = {**mapping(judge), **parts}
        for part, counts, values in (
            ("tuned", ("scored", "unscored"), ("mean",)),
            ("difference", ("count",), ("mean", "low", "high", "p_value")),
        ):
            wanted = (*counts, *values) if parts[part].get(counts[0]) else counts  # of nothing there is no mean
            missing += _absent(parts[part], EVALUATE, wanted, f"judges.{name}.{part}.")
    reference = {system: mapping(values) for system, values in mapping(results["reference"]).items()}
    return {"judges": judges, "reference": reference}


def _absent(values: Any, path: str, wanted: Iterable[str], prefix: str = "") -> list[str]:
    """A line that names the numbers which a file lacks, if any."""
    names = [f"{prefix}{key}" for key in wanted if finite(mapping(values).get(key)) is None]
    return [f"{path}: no number in {', '.join(names)}"] if names else []


def _gaps(curve: Sequence[Mapping[str, str]], path: str) -> list[str]:
    """A line that says of how many steps a curve has no loss, if of any."""
    without = sum(parse_number(row.get("loss")) is None for row in curve)
    return [f"{path}: {without} of {len(curve)} losses are no finite number"] if without else []


def parse_number(text: str | None) -> float | None:
    """The finite number that a table's cell holds, or None."""
    try:
        return finite(float(text or ""))
    except ValueError:
        return None


def _scores_of(judge: str, rows: list[dict[str, str]], judgements: list[dict[str, Any]]) -> Scores:
    try:
        return {key: finite(score) for key, score in scores_of(judge, rows, judgements).items()}
    except (KeyError, ValueError, TypeError):
        return {}


def _json(files: Mapping[str, bytes], path: str, missing: list[str]) -> Any:
    if path not in files:
        missing.append(f"no {path}")
        return {}
    try:
        return json.loads(_text(files[path]))
    except (ValueError, RecursionError):
        missing.append(f"{path} is not JSON")
        return {}


def _list(files: Mapping[str, bytes], path: str, missing: list[str]) -> list[dict[str, Any]]:
    rows = _json(files, path, missing)
    return [row for row in rows if isinstance(mapping(row).get("id"), str)] if isinstance(rows, list) else []


def _csv(files: Mapping[str, bytes], path: str, missing: list[str]) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(StringIO(_text(files[path])), restkey=""))
    except KeyError:
        missing.append(f"no {path}")
    except csv.Error as error:
        missing.append(f"{path} is not CSV ({error})")
    else:
        return [{key: value for key, value in row.items() if key} for row in rows]
    return []


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace").removeprefix("\ufeff")
