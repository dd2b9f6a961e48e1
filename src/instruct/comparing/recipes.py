"""Two recipes of several trainings each: the interval of their difference, its p-value, the smallest detectable one."""

from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
from scipy.special import stdtrit

from instruct.comparing.seeds import Array, error_of_means, residuals
from instruct.statistics import ALPHA, POWER, Interval, error_growth, smallest_detectable, standard_error

DRAWS = 10_000  # of a second comparison, among which a smallest detectable difference is sought


def compare_recipes(a: Array, b: Array, groups: Sequence[str] | None) -> tuple[Interval, float]:
    """Interval and p-value of the difference of two recipes' means.

    `a` and `b` hold a row for each training, two or more, and a column for each item; one of them may be a baseline,
    which no seed moves, with one row. Items and seeds are both samples; the variance of the items' mean differences and
    of the runs' means add up, which counts what both hold twice. Each is multiplied by Student's quantile for its own
    degrees of freedom, so that two or three seeds are not taken for many. Each recipe has its own spread, since one may
    be less stable (Welch, 1947); how evenly they share it is known badly from so few, so the square root of Welch's
    number of sides counts, times the degrees of freedom of the side with fewer runs. Intervals hold 95 to 100 times of
    100, least often where one recipe is much less stable.
    """
    differences = (b.mean(axis=0) - a.mean(axis=0)).tolist()
    spreads = [_seed_variance(side) / len(side) for side in (a, b)]
    fewest = _fewest(a, b)
    freedom = float(_freedom(fewest, *spreads)) if sum(spreads) else float(fewest)
    errors = [standard_error(differences, groups), (sum(spreads) ** 0.5, freedom)]
    mean = fmean(differences)
    half = _reach(errors, ALPHA)
    interval = Interval(mean=mean, low=max(mean - half, -100.0), high=min(mean + half, 100.0))
    return interval, _p_value(abs(mean), errors)


def _seed_variance(side: Array) -> float:
    """The variance between the means of a side's trainings; 0 of a baseline."""
    return float(side.mean(axis=1).var(ddof=1)) if len(side) > 1 else 0.0


def _fewest(a: Array, b: Array) -> int:
    """The degrees of freedom between trainings of the side with fewer, a baseline left out."""
    return min(len(side) for side in (a, b) if len(side) > 1) - 1


def _freedom(fewest: int, one: Any, other: Any) -> Any:
    """The degrees of freedom of the sum of two sides' spreads."""
    return fewest * (one + other) / np.hypot(one, other)


def smallest_between_recipes(
    a: Array, b: Array, groups: Sequence[str] | None, *, level: float = ALPHA, share: float = 1.0
) -> float | None:
    """The smallest true difference that a second comparison of such recipes finds at `level` 8 times of 10.

    `share` is as in `smallest_detectable`; None where none can be stated. How far seeds move a mean is known badly from
    a few of them, so that no single value for it gives that rate. DRAWS times one is drawn that fits what was seen (an
    estimate of n degrees of freedom is the true value times a chi-square over n), then what the second comparison sees,
    and `compare_recipes` decides. Both recipes are taken to be equally stable here, which no few seeds could tell.
    """
    differences = (b.mean(axis=0) - a.mean(axis=0)).tolist()
    if smallest_detectable(differences, groups=groups, alpha=level, share=share) is None:
        return None
    error, freedom = standard_error(differences, groups)
    growth = error_growth(differences, groups=groups, share=share)
    of_a, of_b, true_seed, again, true_item, normal = _second_comparisons(len(a), len(b), freedom)
    seed = sum(_seed_variance(side) * (len(side) - 1) for side in (a, b)) / (len(a) + len(b) - 2)
    of_a, of_b = seed * of_a / len(a), seed * of_b / len(b)
    quantile = np.square(stdtrit(_freedom(_fewest(a, b), of_a, of_b), 1 - level / 2)) if seed else 0.0
    of_seeds, of_items = quantile * (of_a + of_b), float(stdtrit(freedom, 1 - level / 2)) ** 2
    trained = [side for side in (a, b) if len(side) > 1]
    by_seed = sum(error_of_means(residuals(side), groups) ** 2 / len(side) for side in trained)
    of_means = seed * sum(1 / len(side) for side in trained) * true_seed
    spread = of_means + max(error**2 - by_seed, 0.0) * true_item

    def power(mean: float) -> float:
        more = mean * growth[0] + mean**2 * growth[1]
        reach = np.sqrt(of_items * (error**2 * again + more) + of_seeds)
        return float((mean + normal * np.sqrt(spread + more) > reach).mean())

    low, high = 0.0, 100.0
    if power(high) < POWER:
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def smallest_planned(of_items: float, freedom: float, of_seeds: float, seeds: int) -> float:
    """The smallest true difference that `compare_recipes` finds 8 times of 10 with so many runs of each recipe.

    `of_items` and `of_seeds` are the variances that it adds up, as they are in truth; `freedom` is that of the items.
    Both recipes are taken to be equally stable.
    """
    seen, normal = _planned_comparisons(seeds)
    reach = np.sqrt(of_items * float(stdtrit(freedom, 1 - ALPHA / 2)) ** 2 + of_seeds * seen)
    return float(np.quantile(reach + normal * of_seeds**0.5, POWER))


@cache
def _planned_comparisons(seeds: int) -> tuple[Array, Array]:
    """Draws for so many runs of each recipe: the squared reach for a true spread of 1, and the mean's error."""
    rng = np.random.default_rng(123)
    one, other = rng.chisquare(seeds - 1, (2, DRAWS)) / (seeds - 1)
    quantile = stdtrit(_freedom(seeds - 1, one, other), 1 - ALPHA / 2)
    return (one + other) / 2 * quantile**2, rng.standard_normal(DRAWS)


@cache
def _second_comparisons(a: int, b: int, freedom: float) -> tuple[Array, ...]:
    """Draws, each to be multiplied by what a first comparison saw: the spread that a second one sees of side A, of B.

    Then the seeds' true spread; the items' error as the second one sees it, and the true one; and the mean's own error.
    """
    rng = np.random.default_rng(123)
    seeds = (a + b - 2) / rng.chisquare(a + b - 2, DRAWS)
    items = freedom / rng.chisquare(freedom, DRAWS)
    seen = [
        true * rng.chisquare(df, DRAWS) / df if df else np.zeros(DRAWS)
        for true, df in ((seeds, a - 1), (seeds, b - 1), (items, freedom))
    ]
    return seen[0], seen[1], seeds, seen[2], items, rng.standard_normal(DRAWS)


def _reach(errors: Sequence[tuple[float, float]], alpha: float) -> float:
    """Half the width of an interval, from standard errors that add up and the degrees of freedom of each."""
    return sum((error * float(stdtrit(df, 1 - alpha / 2))) ** 2 for error, df in errors if error) ** 0.5


def _p_value(distance: float, errors: Sequence[tuple[float, float]]) -> float:
    """The level at which an interval around `distance` begins to leave out 0."""
    low, high = 0.0, 1.0
    while high - low > 1e-12 + 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _reach(errors, middle) <= distance else (middle, high)
    return high
