"""The records whose scores changed most between two sides, with the answers of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from instruct.comparing.seeds import records_with
from instruct.core.records import Response
from instruct.results.runs import Run


@dataclass(frozen=True, kw_only=True)
class Change:
    """One record whose score changed, with an answer of each side; the scores are means over each side's runs."""

    id: str
    kind: str
    score_a: float
    score_b: float
    a: Response | None
    b: Response | None


def mean_scores(a: Sequence[Run], b: Sequence[Run], score: str) -> dict[str, tuple[float, float]]:
    """Each side's mean over its runs, by record, of the records that have this score in every run."""
    ids = records_with((*a, *b), score)
    sides = ([run.scores[score] for run in side] for side in (a, b))
    one, other = ({id_: fmean(scores[id_] or 0.0 for scores in side) for id_ in ids} for side in sides)
    return {id_: (one[id_], other[id_]) for id_ in ids}


def biggest_changes(
    a: Sequence[Run],
    b: Sequence[Run],
    score: str,
    answers: Sequence[Mapping[str, Response]],
    count: int,
    *,
    better: bool,
) -> list[Change]:
    """The records that gained (or lost) most of one score from A to B, with `answers` of a run of each side."""
    changes = []
    for id_, (before, after) in mean_scores(a, b, score).items():
        if after > before if better else after < before:
            left, right = (side.get(id_) for side in answers)
            changes.append(Change(id=id_, kind=a[0].kinds[id_], score_a=before, score_b=after, a=left, b=right))
    return sorted(changes, key=lambda one: (-abs(one.score_b - one.score_a), one.id))[:count]
