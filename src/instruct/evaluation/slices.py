"""Scores by kind of task, length, input and stop reason: where a system is weak, and where training helped or hurt."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import mean

from instruct.core.records import Response
from instruct.core.words import count_words
from instruct.evaluation.judges.base import Answers
from instruct.evaluation.means import clusters_of, rounded
from instruct.evaluation.settings import EvaluateParams
from instruct.results.scores import Slice, SliceChange, SliceScore
from instruct.results.table import Scores
from instruct.statistics import mean_interval

LENGTHS = ((5, "1-5 words"), (20, "6-20 words"), (50, "21-50 words"))
FEWEST = 8  # pairs below which an interval says too little


def length_of(record: Response) -> str:
    """The band of the reference answer's length: a property of the task, so the same for all systems."""
    words = count_words(record.output)
    return next((name for most, name in LENGTHS if words <= most), "over 50 words")


PROPERTIES: Mapping[str, Callable[[Response], str]] = {
    "kind": lambda record: record.kind or "(none)",
    "length": length_of,
    "input": lambda record: "with input" if record.input else "without input",
}


def slice_scores(
    answers: Answers, scores: Mapping[str, Scores], params: EvaluateParams, *, against: str
) -> tuple[Slice, ...]:
    """One slice per value of each property: the mean of every system of `scores`, and its difference from `against`."""
    records = next(iter(answers.values()))
    clusters = clusters_of(records)
    slices: list[Slice] = []
    for name, property_of in PROPERTIES.items():
        groups: dict[str, list[str]] = {}
        for record in records:
            groups.setdefault(property_of(record), []).append(record.id)
        for value, ids in sorted(groups.items(), key=lambda group: _natural(group[0])):
            others = [system for system in scores if system != against]
            changes = tuple(_change(against, other, ids, scores, clusters, params) for other in others)
            means = tuple(_mean(system, ids, scores[system]) for system in scores)
            slices.append(Slice(property=name, value=value, systems=means, differences=changes))
    return (*slices, *_by_stop_reason(answers, scores))


def _mean(system: str, ids: Sequence[str], scores: Scores) -> SliceScore:
    known = [score for id_ in ids if (score := scores[id_]) is not None]
    return SliceScore(system=system, records=len(ids), scored=len(known), mean=rounded(mean(known)) if known else None)


def _change(
    against: str,
    system: str,
    ids: Sequence[str],
    scores: Mapping[str, Scores],
    clusters: Mapping[str, str],
    params: EvaluateParams,
) -> SliceChange:
    """The difference over the records that have both scores, with its interval if they are enough."""
    pairs = [(id_, scores[against][id_], scores[system][id_]) for id_ in ids]
    known = {id_: b - a for id_, a, b in pairs if a is not None and b is not None}
    changes = list(known.values())
    low = high = None
    if len(changes) >= FEWEST:
        interval = mean_interval(
            changes,
            resamples=params.resamples,
            seed=params.seed,
            groups=[clusters[id_] for id_ in known],
            bounds=(-100.0, 100.0),
        )
        low, high = rounded(interval.low), rounded(interval.high)
    middle = rounded(mean(changes)) if changes else None
    return SliceChange(system=system, against=against, count=len(changes), mean=middle, low=low, high=high)


def _by_stop_reason(answers: Answers, scores: Mapping[str, Scores]) -> list[Slice]:
    """How an answer ended is a property of the answer, so there is no pair and no difference."""
    slices = []
    for reason in sorted({one.stop_reason for system in scores for one in answers[system]}):
        ids = {system: [one.id for one in answers[system] if one.stop_reason == reason] for system in scores}
        means = tuple(_mean(system, ids[system], scores[system]) for system in scores)
        slices.append(Slice(property="stop_reason", value=reason, systems=means))
    return slices


def _natural(value: str) -> tuple[float, str]:
    """Sorts what starts with a number by it, and before words."""
    number = re.match(r"\d+", value)
    return (float(number[0]) if number else inf, value)
