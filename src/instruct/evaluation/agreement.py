"""How far two judges, or a judge and people, agree on the same answers.

Correlations say whether they rank alike; only kappa and the mean difference say whether they mean the same by a
score. A judge may correlate well with people and still be far too lenient (arXiv 2510.09738).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

BANDS = (20.0, 40.0, 60.0, 80.0)  # lower ends of the second to the fifth band

Floats = npt.NDArray[np.float64]
Keyed = Mapping[tuple[str, str], float | None]
"""Scores by system and record id."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two judges on the answers that both scored. What is not defined, as for constant scores, is None."""

    count: int
    pearson: float | None
    spearman: float | None
    kendall: float | None
    kappa: float | None
    kappa_weighted: float | None
    mean_difference: float | None

    def metrics(self) -> dict[str, Any]:
        """As it stands in metrics/evaluate.json: what is not defined is absent."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return {name: value if name == "count" else round(value, 4) + 0.0 for name, value in values.items()}


def agree(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Measures of agreement; `mean_difference` is first minus second, in points."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return Agreement(
        count=len(a),
        pearson=pearson(a, b),
        spearman=pearson(ranks(a), ranks(b)),
        kendall=kendall(a, b),
        kappa=kappa(bands(a), bands(b)),
        kappa_weighted=kappa(bands(a), bands(b), weighted=True),
        mean_difference=float((a - b).mean()) if len(a) else None,
    )


def agree_all(scores: Mapping[str, Keyed]) -> dict[str, dict[str, Any]]:
    """Agreement of each two judges, over both systems' answers, by the name `first ~ second`."""
    found = {}
    for one, other in combinations(scores, 2):
        pairs = [
            (score, second)
            for key, score in scores[one].items()
            if score is not None and (second := scores[other].get(key)) is not None
        ]
        agreement = agree([a for a, _ in pairs], [b for _, b in pairs])
        found[f"{one} ~ {other}"] = {"first": one, "second": other, **agreement.metrics()}
    return found


def pearson(a: Floats, b: Floats) -> float | None:
    """The correlation coefficient; None for fewer than two values or constant ones."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    x, y = a - a.mean(), b - b.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def kendall(a: Floats, b: Floats) -> float | None:
    """Tau-b, which allows for ties; None where one side is constant."""
    together = ties_a = ties_b = 0
    for i in range(len(a) - 1):  # row by row, so that memory stays small
        x, y = np.sign(a[i + 1 :] - a[i]), np.sign(b[i + 1 :] - b[i])
        together += int((x * y).sum())
        ties_a += int((x == 0).sum())
        ties_b += int((y == 0).sum())
    pairs = len(a) * (len(a) - 1) // 2
    untied = float(pairs - ties_a) * float(pairs - ties_b)
    return together / untied**0.5 if untied > 0 else None


def bands(scores: Floats) -> npt.NDArray[np.int64]:
    """The band of each score: 0-19, 20-39, 40-59, 60-79, 80-100, counted from 0."""
    return np.asarray(np.searchsorted(BANDS, scores, side="right"), dtype=np.int64)


def kappa(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], *, weighted: bool = False) -> float | None:
    """Cohen's kappa: agreement beyond chance; `weighted` counts a miss by the square of its distance (Cohen, 1968).

    None where chance alone agrees fully, so where both give one and the same band throughout.
    """
    if not len(a):
        return None
    size = len(BANDS) + 1
    observed = np.zeros((size, size))
    np.add.at(observed, (a, b), 1 / len(a))
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0))
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    weights = distance**2 if weighted else distance != 0
    chance = float((weights * expected).sum())
    return None if chance == 0 else 1.0 - float((weights * observed).sum()) / chance
