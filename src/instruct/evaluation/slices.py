"""Scores by kind of task, length, input and stop reason: where a system is weak, and where training helped or hurt."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import mean
from typing import Any

from instruct.core.records import Response
from instruct.evaluation.judges.base import Answers
from instruct.evaluation.score import SYSTEMS, Scores, clusters_of
from instruct.evaluation.settings import EvaluateParams
from instruct.statistics import mean_interval

LENGTHS = ((5, "1-5 words"), (20, "6-20 words"), (50, "21-50 words"))
FEWEST = 8  # pairs that an interval is worth being shown for

Row = dict[str, Any]


def length_of(record: Response) -> str:
    """The band of the reference answer's length: a property of the task, so the same for both systems."""
    words = len(record.output.split())
    return next((name for most, name in LENGTHS if words <= most), "over 50 words")


PROPERTIES: Mapping[str, Callable[[Response], str]] = {
    "kind": lambda record: record.kind or "(none)",
    "length": length_of,
    "input": lambda record: "with input" if record.input else "without input",
}


def slice_scores(answers: Answers, scores: Mapping[str, Scores], params: EvaluateParams) -> list[Row]:
    """One row per value of each property: mean of each system and of their difference, with the number of pairs."""
    rows: list[Row] = []
    clusters = clusters_of(answers["base"])
    for name, property_of in PROPERTIES.items():
        groups: dict[str, list[str]] = {}
        for record in answers["base"]:
            groups.setdefault(property_of(record), []).append(record.id)
        for value, ids in sorted(groups.items(), key=lambda group: _natural(group[0])):
            rows.append({"slice": name, "value": value} | _compare(ids, scores, clusters, params))
    return rows + _by_stop_reason(answers, scores)


def _compare(
    ids: Sequence[str], scores: Mapping[str, Scores], clusters: Mapping[str, str], params: EvaluateParams
) -> Row:
    """Means over the records that have a score; the difference over those that have both."""
    row: Row = {"records": len(ids)}
    for system in SYSTEMS:
        known = [score for id_ in ids if (score := scores[system][id_]) is not None]
        row |= {f"{system}_scored": len(known)} | ({system: _round(mean(known))} if known else {})
    pairs = [(id_, scores["base"][id_], scores["tuned"][id_]) for id_ in ids]
    known_pairs = {id_: b - a for id_, a, b in pairs if a is not None and b is not None}
    changes = list(known_pairs.values())
    if changes:
        row |= {"count": len(changes), "difference": _round(mean(changes))}
    if len(changes) >= FEWEST:
        interval = mean_interval(
            changes,
            resamples=params.resamples,
            seed=params.seed,
            groups=[clusters[id_] for id_ in known_pairs],
            bounds=(-100.0, 100.0),
        )
        row |= {"low": _round(interval.low), "high": _round(interval.high)}
    return row


def _by_stop_reason(answers: Answers, scores: Mapping[str, Scores]) -> list[Row]:
    """How an answer ended is a property of the answer, so there is no pair and no difference."""
    rows = []
    for reason in sorted({one.stop_reason for responses in answers.values() for one in responses}):
        row: Row = {"slice": "stop_reason", "value": reason}
        for system in SYSTEMS:
            ids = [one.id for one in answers[system] if one.stop_reason == reason]
            known = [score for id_ in ids if (score := scores[system][id_]) is not None]
            row |= {f"{system}_records": len(ids), f"{system}_scored": len(known)}
            row |= {system: _round(mean(known))} if known else {}
        rows.append(row)
    return rows


def extremes(scores: Mapping[str, Scores], count: int) -> dict[str, list[Row]]:
    """The tuned model's lowest-scored answers, and those that gained and lost most against the base model's."""
    base, tuned = (scores[system] for system in SYSTEMS)
    scored = sorted((score, id_) for id_, score in tuned.items() if score is not None)
    both = [(tuned_score - score, id_) for tuned_score, id_ in scored if (score := base[id_]) is not None]
    gained = sorted((one for one in both if one[0] > 0), reverse=True)
    lost = sorted(one for one in both if one[0] < 0)

    def row(id_: str) -> Row:
        known = {"id": id_, "base": base[id_], "tuned": tuned[id_]}
        return {name: value for name, value in known.items() if value is not None}

    return {
        "worst": [row(id_) for _, id_ in scored[:count]],
        "improved": [row(id_) | {"difference": _round(change)} for change, id_ in gained[:count]],
        "regressed": [row(id_) | {"difference": _round(change)} for change, id_ in lost[:count]],
    }


def _natural(value: str) -> tuple[float, str]:
    """Sorts what starts with a number by it, and before words."""
    number = re.match(r"\d+", value)
    return (float(number[0]) if number else inf, value)


def _round(value: float) -> float:
    return round(value, 4) + 0.0
