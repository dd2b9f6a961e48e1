"""All systems' answers side by side, and those worth a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from instruct.core.errors import DataError
from instruct.core.records import Response
from instruct.results.schema import ACCURACY, SIMILARITY
from instruct.results.table import Table

BAND = 10  # points
SIMILAR = 50.0  # points of similarity from which a wrong answer looks like a right one
BANDS = (*(f"{low}-{low + BAND - 1}" for low in range(0, 100, BAND)), "100")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One record with every system's answer and score; the last system is the primary one.

    A score that does not exist is None; so is what is right or wrong of an open question. `near` are similarities.
    """

    answers: dict[str, Response]
    scores: dict[str, float | None]
    against: str
    right: dict[str, float | None]
    near: dict[str, float | None]

    @property
    def record(self) -> Response:
        """The record, for what all answers to it share."""
        return next(iter(self.answers.values()))

    @property
    def score(self) -> float | None:
        """The primary system's."""
        return list(self.scores.values())[-1]

    @property
    def change(self) -> float | None:
        """The primary system's score less that of the best baseline, or of what the judge compares it with."""
        first = self.scores[self.against]
        return None if self.score is None or first is None else self.score - first


def pair_answers(answers: Mapping[str, Sequence[Response]], table: Table, judge: str, against: str) -> list[Compared]:
    """The systems' answers side by side with their scores by `judge`, in the order of the test set."""

    def scores_of(name: str, id_: str) -> dict[str, float | None]:
        return {system: table.scores[name][system][id_] if name in table.scores else None for system in answers}

    by_id = {system: {one.id: one for one in responses} for system, responses in answers.items()}
    try:
        return [
            Compared(
                answers={system: found[one.id] for system, found in by_id.items()},
                scores=scores_of(judge, one.id),
                against=against,
                right=scores_of(ACCURACY, one.id),
                near=scores_of(SIMILARITY, one.id),
            )
            for one in next(iter(answers.values()))
        ]
    except KeyError as error:
        raise DataError(f"the answers and the scores are not of one run ({error}); run `dvc repro`") from None


def worst(pairs: Sequence[Compared], count: int) -> list[Compared]:
    """The primary system's lowest-scored answers, unscored ones first."""
    return sorted(pairs, key=lambda pair: -1.0 if pair.score is None else pair.score)[:count]


def form_without_truth(pairs: Sequence[Compared], count: int) -> list[Compared]:
    """The primary system's wrong answers that are most similar to the reference."""
    primary = list(pairs[0].answers)[-1] if pairs else ""
    wrong = [(pair.near[primary] or 0.0, pair) for pair in pairs if pair.right[primary] == 0]
    return [pair for near, pair in sorted(wrong, key=lambda item: -item[0])[:count] if near >= SIMILAR]


def most_changed(pairs: Sequence[Compared], count: int, *, better: bool) -> list[Compared]:
    """The answers that gained (or lost) most against the best baseline's."""
    changes = [(pair.change, pair) for pair in pairs if pair.change is not None]
    wanted = [(change, pair) for change, pair in changes if (change > 0 if better else change < 0)]
    return [pair for _, pair in sorted(wanted, key=lambda item: item[0], reverse=better)[:count]]


def count_bands(pairs: Sequence[Compared]) -> dict[str, list[int]]:
    """How many answers of each system fall into each of BANDS."""
    counts = {system: [0] * len(BANDS) for pair in pairs for system in pair.scores}
    for pair in pairs:
        for system, score in pair.scores.items():
            if score is not None:
                counts[system][int(score // BAND)] += 1
    return counts


def count_endings(answers: Sequence[Response]) -> dict[str, int]:
    """How many answers ended for each reason, most frequent first."""
    counts: dict[str, int] = {}
    for one in answers:
        counts[one.stop_reason] = counts.get(one.stop_reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
