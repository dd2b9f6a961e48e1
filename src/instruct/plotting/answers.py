"""Both systems' answers side by side, and those worth a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instruct.core.errors import DataError
from instruct.core.records import Response

BAND = 10


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One record with both systems' answers and scores; a missing score is None."""

    base: Response
    tuned: Response
    base_score: float | None
    tuned_score: float | None


def pair_answers(
    base: Sequence[Response], tuned: Sequence[Response], scores: Mapping[tuple[str, str], float | None]
) -> list[Compared]:
    """Base and tuned answers side by side with their scores by (system, id), in the order of the test set."""
    base_by_id = {response.id: response for response in base}
    try:
        return [
            Compared(
                base=base_by_id[one.id],
                tuned=one,
                base_score=scores["base", one.id],
                tuned_score=scores["tuned", one.id],
            )
            for one in tuned
        ]
    except KeyError as error:
        raise DataError(f"the answers and the judgements are not of one run ({error}); run `dvc repro`") from None


def worst(pairs: Sequence[Compared], count: int) -> list[Compared]:
    """The tuned model's lowest-scored answers, unscored ones first."""
    return sorted(pairs, key=lambda pair: -1.0 if pair.tuned_score is None else pair.tuned_score)[:count]


def most_changed(pairs: Sequence[Compared], count: int, *, better: bool) -> list[Compared]:
    """The answers that gained (or lost) most against the base model."""
    changes = [
        (pair.tuned_score - pair.base_score, pair)
        for pair in pairs
        if pair.tuned_score is not None and pair.base_score is not None
    ]
    wanted = [(change, pair) for change, pair in changes if (change > 0 if better else change < 0)]
    return [pair for _, pair in sorted(wanted, key=lambda item: item[0], reverse=better)[:count]]


def count_bands(pairs: Sequence[Compared]) -> list[dict[str, Any]]:
    """Counts of answers per band of ten points for base and tuned; 100 has a band of its own."""
    labels = [f"{low}-{low + BAND - 1}" for low in range(0, 100, BAND)] + ["100"]
    rows: list[dict[str, Any]] = [{"band": label, "base": 0, "tuned": 0} for label in labels]
    for pair in pairs:
        for system, score in (("base", pair.base_score), ("tuned", pair.tuned_score)):
            if score is not None:
                rows[int(score // BAND)][system] += 1
    return rows


def count_endings(answers: Sequence[Response]) -> dict[str, int]:
    """How many answers ended for each reason, most frequent first."""
    counts: dict[str, int] = {}
    for one in answers:
        counts[one.stop_reason] = counts.get(one.stop_reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
