"""How far two judges, or a judge and people, agree on the same answers.

Within each system: over the answers of several, two judges that know nothing of a single answer correlate at 0.7 if
one system is better than the other. Correlations say whether they rank alike; only kappa and the mean difference say
whether they mean the same by a score. A judge may correlate well with people and still be far too lenient (arXiv
2510.09738).

A judge of pairs gives shares of wins, which are not scores of an answer. With one of them both sides are read as wins,
ties and losses of a system against the other one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from instruct.results.schema import DECIMALS, Agreement

BANDS = (20.0, 40.0, 60.0, 80.0)  # lower ends of the second to the fifth band

Floats = npt.NDArray[np.float64]
Keyed = Mapping[tuple[str, str], float | None]
"""Scores by system and record id."""


def agree(first: str, second: str, pairs: Sequence[tuple[float, float]], *, system: str = "") -> Agreement:
    """Measures of agreement of two judges on a system's answers; `mean_difference` is first minus second, in points."""
    from scipy import stats  # takes a second to import, and most runs have one judge

    a, b = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    varied = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    values = {
        "pearson": float(stats.pearsonr(a, b).statistic) if varied else None,
        "spearman": float(stats.spearmanr(a, b).statistic) if varied else None,
        "kendall": float(stats.kendalltau(a, b).statistic) if varied else None,
        "kappa": kappa(bands(a), bands(b)),
        "kappa_weighted": kappa(bands(a), bands(b), weighted=True),
        "mean_difference": float((a - b).mean()) if len(a) else None,
    }
    rounded = {name: None if value is None else round(value, DECIMALS) + 0.0 for name, value in values.items()}
    return Agreement(first=first, second=second, system=system, count=len(a), **rounded)


def agree_all(scores: Mapping[str, Keyed], of_pairs: Collection[str] = ()) -> tuple[Agreement, ...]:
    """Agreement of each two judges on each system's answers, systems in the order in which they come.

    With a judge `of_pairs`, only on who won: one row, of the second of its two systems.
    """
    found = []
    for one, other in combinations(scores, 2):
        systems, sides = _systems_of(scores.values()), (scores[one], scores[other])
        if pair := next((name for name in (one, other) if name in of_pairs), None):
            against, system = _systems_of([scores[pair]])
            systems, sides = [system], (wins(scores[one], system, against), wins(scores[other], system, against))
        for system in systems:
            own = {key: score for key, score in sides[0].items() if key[0] == system}
            pairs = [(score, sides[1].get(key)) for key, score in own.items()]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            found.append(agree(one, other, both, system=system))
    return tuple(found)


def wins(scores: Keyed, system: str, against: str) -> Keyed:
    """100 where a system's score is higher than that of `against`, 50 where they are equal, and 0 where it is lower."""
    pairs = {key: (score, scores.get((against, key[1]))) for key, score in scores.items() if key[0] == system}
    return {key: None if a is None or b is None else 50.0 + 50.0 * np.sign(a - b) for key, (a, b) in pairs.items()}


def _systems_of(scores: Iterable[Keyed]) -> list[str]:
    return list(dict.fromkeys(system for one in scores for system, _ in one))


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
