"""All systems' answers side by side, and those worth a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from instruct.core.errors import DataError
from instruct.core.records import Response
from instruct.results.table import Scores

BAND = 10  # points
BANDS = (*(f"{low}-{low + BAND - 1}" for low in range(0, 100, BAND)), "100")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One record with every system's answer and score; the first system is compared with, the last is the primary.

    A score that does not exist is None.
    """

    answers: dict[str, Response]
    scores: dict[str, float | None]

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
        """The primary system's score less the first one's."""
        first = next(iter(self.scores.values()))
        return None if self.score is None or first is None else self.score - first


def pair_answers(answers: Mapping[str, Sequence[Response]], scores: Mapping[str, Scores]) -> list[Compared]:
    """The systems' answers side by side with their scores, in the order of the test set."""
    by_id = {system: {one.id: one for one in responses} for system, responses in answers.items()}
    try:
        return [
            Compared(
                answers={system: found[one.id] for system, found in by_id.items()},
                scores={system: scores[system][one.id] for system in answers},
            )
            for one in next(iter(answers.values()))
        ]
    except KeyError as error:
        raise DataError(f"the answers and the scores are not of one run ({error}); run `dvc repro`") from None


def worst(pairs: Sequence[Compared], count: int) -> list[Compared]:
    """The primary system's lowest-scored answers, unscored ones first."""
    return sorted(pairs, key=lambda pair: -1.0 if pair.score is None else pair.score)[:count]


def most_changed(pairs: Sequence[Compared], count: int, *, better: bool) -> list[Compared]:
    """The answers that gained (or lost) most against the first system's."""
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
