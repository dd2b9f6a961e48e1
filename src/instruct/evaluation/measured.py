"""The scores that need no judge: right answers to closed questions first, then similarity; and the best baseline."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from instruct.checks.rules import is_right
from instruct.checks.schema import Check
from instruct.core.records import Response, whole_question
from instruct.evaluation.judges.base import Answers
from instruct.evaluation.means import clusters_of, compare_systems, describe_scores, mean_of, rounded
from instruct.evaluation.reference import Measured, compare
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.slices import slice_scores
from instruct.evaluation.systems import Systems
from instruct.results.schema import (
    ACCURACY,
    DETAILS,
    REFERENCE_METRICS,
    SIMILARITY,
    MeasureResults,
    shown_systems,
)
from instruct.results.table import Scores

AllScores = dict[str, dict[str, Scores]]
"""Scores by name, system and record id."""


def score_all(answers: Answers, checks: Mapping[str, Check]) -> AllScores:
    """Every measure of every answer; accuracy, over the closed questions alone, only where there are any."""
    measured = {system: [compare(one.response, one.output) for one in those] for system, those in answers.items()}
    scores = {name: {system: _values(answers[system], measured[system], name) for system in answers}
              for name in REFERENCE_METRICS}  # fmt: skip
    closed = {id_: check for id_, check in checks.items() if not check.is_open}
    right = {system: _right(those, closed) for system, those in answers.items()}
    return {ACCURACY: right, **scores} if next(iter(right.values())) else scores


def _values(answers: Sequence[Response], measured: Sequence[Measured], name: str) -> Scores:
    return {one.id: rounded(getattr(found, name)) for one, found in zip(answers, measured, strict=True)}


def _right(answers: Sequence[Response], closed: Mapping[str, Check]) -> Scores:
    """100 for a right answer and 0 for a wrong one, of the closed questions."""
    return {
        one.id: 100.0 * is_right(closed[one.id], one.response, whole_question(one))
        for one in answers
        if one.id in closed
    }


def select_measured(scores: AllScores) -> AllScores:
    """The headline's scores, the primary one first, and the details: similarity apart for open and closed questions."""
    if ACCURACY not in scores:
        return {SIMILARITY: scores[SIMILARITY]}
    closed = set(next(iter(scores[ACCURACY].values())))
    parts: AllScores = {"open_similarity": {}, "closed_similarity": {}}
    for system, similar in scores[SIMILARITY].items():
        parts["open_similarity"][system] = {id_: one for id_, one in similar.items() if id_ not in closed}
        parts["closed_similarity"][system] = {id_: one for id_, one in similar.items() if id_ in closed}
    return {name: found for name, found in {ACCURACY: scores[ACCURACY], **parts}.items() if all(found.values())}


def choose_pair(measured: AllScores, systems: Systems) -> tuple[str, str]:
    """The best baseline by the primary score (the first of equals), and the primary system."""
    scores = next(iter(select_measured(measured).values()))
    return max(systems.baselines, key=lambda name: mean_of(scores[name])), list(systems.files)[-1]


def choose_judged(measured: AllScores, systems: Systems) -> tuple[str, str]:
    """What a judge of pairs compares: the last two trained systems where there are several, else as `choose_pair`."""
    against, primary = choose_pair(measured, systems)
    return (systems.trained[-2] if len(systems.trained) > 1 else against), primary


def summarise_measured(
    scores: AllScores, answers: Answers, systems: Systems, against: str, params: EvaluateParams
) -> tuple[MeasureResults, ...]:
    """Means, differences from the best baseline and from the system before, and slices of those that come first."""
    clusters = clusters_of(answers[against])
    shown = shown_systems(tuple(answers), systems.baselines, against)
    found = []
    for name, of in select_measured(scores).items():
        records = {system: [one for one in answers[system] if one.id in of[system]] for system in shown}
        some = {system: of[system] for system in shown}
        found.append(
            MeasureResults(
                name=name,
                systems=tuple(describe_scores(system, of[system], clusters, params) for system in of),
                differences=tuple(
                    compare_systems(against, system, of, clusters, params) for system in of if system != against
                ),
                over_previous=tuple(compare_systems(a, b, of, clusters, params) for a, b in pairwise(systems.trained))
                or None,
                slices=() if name in DETAILS else slice_scores(records, some, params, against=against),
            )
        )
    return tuple(found)
