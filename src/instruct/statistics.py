"""Intervals and paired tests for scores from 0 to 100: seeded, and checked against scipy and against known truth.

Two tests must both reject. The first flips signs (Fisher, 1935): without a difference the sign of each item's
difference is a coin toss, and the p-value counts the tosses that are as far from 0 as what was seen. It is exact for
symmetric differences, however few, tied or heavy-tailed, but wrong where many small gains balance rare large losses.
The second is the bootstrap-t (Efron & Tibshirani, 1993, ch. 12), which sees that skew and needs no symmetry; it joins
from SKEW_FROM groups on. Losses so rare that they are often not in the sample deceive every test. The interval holds
every mean that one of the two does not reject, so p-value and interval agree. Near-duplicates share their sign and are
drawn together, so that a group counts once (clusters: Miller, 2024).

Where nearly all differences are alike, say 58 of 60, neither test knows how rare the others are. From NEARLY_FROM
groups on, if fewer than LEAST groups are apart from the others, the interval allows for as many of them as Poisson's
upper limit for that count (Garwood, 1936), those beyond the seen ones by all that a score can move: 9 points for 2 of
60, 7 for none of 50. The p-value follows it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaincc, gammaincinv, stdtrit

ALPHA = 0.05
POWER = 0.8
CAUTION = 0.84  # standard errors: the upper end of an estimate in 8 cases of 10
LEAST = 6  # groups: with fewer that differ no test at 5 % rejects, and what is seen of the spread is chance
FEW = 0.2  # the share of records of a gain that few bring
SKEW_FROM = 20  # groups: from here on the bootstrap-t must reject too; with fewer it knows too little of the tails
NEARLY_FROM = 20  # groups: with fewer, sign flips alone decide of differences that are nearly all alike
APART = 0.25  # of the largest distance from the median: from there on a group is apart from the others
SWEEP = 16  # times rarer than alpha a clean sweep must be by chance, for the smallest difference to be stated
_BLOCK = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval; the whole range of possible means where the items are too few for less."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Mean of b - a over the same items, its 95 % interval, two-sided p-value, and who won how often."""

    difference: Interval
    p_value: float
    wins: int
    ties: int
    losses: int


def mean_interval(
    values: Sequence[float],
    *,
    resamples: int,
    seed: int,
    groups: Sequence[str] | None = None,
    bounds: tuple[float, float] = (0.0, 100.0),
) -> Interval:
    """The mean with the interval of all means that the sign-flip test does not reject, cut at the possible `bounds`.

    `groups` names each value's group of near-duplicates; without it every value is its own. Where fewer than LEAST
    groups have another value than the commonest, the interval also holds what more of them would make of the mean.
    """
    sums, sizes = _cluster(values, groups)
    totals, counts = _flipped(np.stack([sums, sizes], axis=1), resamples, seed).T
    interval = _interval(sums, sizes, totals, counts, bounds)
    others = len(sums) - max(Counter(np.round(sums / sizes, 9).tolist()).values(), default=0)
    if others >= LEAST:
        return interval
    groups_that_count = float(sizes.sum() / sizes.max())
    more = _most_of(others, groups_that_count) - others / groups_that_count
    return _widened(interval, more * bounds[1], bounds)


def _most_of(seen: int, trials: float) -> float:
    """The upper limit of a share of which so many of all were seen: Jeffreys' with Brown's, Cai's and DasGupta's end.

    Clopper's and Pearson's, which never errs too often, held 99 times of 100 (Brown, Cai & DasGupta, 2001).
    """
    if seen == 0:
        return 1.0 - (ALPHA / 2) ** (1 / trials)
    return float(betaincinv(seen + 0.5, max(trials - seen, 0.0) + 0.5, 1 - ALPHA / 2))


def paired_test(
    a: Sequence[float], b: Sequence[float], *, resamples: int, seed: int, groups: Sequence[str] | None = None
) -> Paired:
    """Compare two systems on the same items by random sign flips, or by all of them where they are few.

    What was seen is one of the flips, so the p-value is never 0 (Phipson & Smyth, 2010).
    """
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    return paired_tests([(differences, groups)], resamples=resamples, seed=seed)[0]


def paired_tests(pairs: Sequence[tuple[Array, Sequence[str] | None]], *, resamples: int, seed: int) -> list[Paired]:
    """`paired_test` for each pair of differences and groups; those of as many groups share flips and resamples."""
    clusters = [_cluster(differences, groups) for differences, groups in pairs]
    flips: dict[int, Array] = {}
    drawn: dict[int, Array] = {}
    for count in {len(sums) for sums, _ in clusters}:
        places = [place for place, (sums, _) in enumerate(clusters) if len(sums) == count]
        columns = [_columns(*clusters[place]) for place in places]
        flips |= _by_place(places, _flipped(np.hstack([one[:, :2] for one in columns]), resamples, seed))
        if count >= SKEW_FROM:
            drawn |= _by_place(places, _resampled(np.hstack(columns), resamples, seed))
    parts = zip(pairs, clusters, strict=True)
    return [_paired(one, *cluster, flips[i], drawn.get(i)) for i, ((one, _), cluster) in enumerate(parts)]


def _by_place(places: Sequence[int], totals: Array) -> dict[int, Array]:
    """Each pair's own columns of totals that were computed together."""
    return dict(zip(places, np.split(totals, len(places), axis=1), strict=True))


def _paired(differences: Array, sums: Array, sizes: Array, flips: Array, drawn: Array | None) -> Paired:
    totals, counts = flips.T
    tolerance = 1e-9 * np.abs(sums).sum()  # tenths are not exact in floating point, ties among flips are
    p_value = float((np.abs(totals) >= abs(sums.sum()) - tolerance).mean())
    bounds = (-100.0, 100.0)
    interval = _interval(sums, sizes, totals, counts, bounds)
    differing = int(np.count_nonzero(sums))
    if differing < LEAST:  # of so few no flips reject 0
        interval = _allow_for_unseen(interval, differing, sizes, bounds)
        p_value = max(p_value, min(1.0, 2.0 ** (1 - differing)))  # drawn flips alone may fall below the exact one
    elif (apart := _apart(sums, sizes, drawn)) is not None:
        interval = _allow_for_unseen(interval, apart, sizes, bounds)
        p_value = max(p_value, _p_of_unseen(interval.mean, apart, sizes, bounds))
    elif drawn is not None and (found := _bootstrap_t(sums, sizes, drawn, bounds)):
        other, other_p = found
        p_value = max(p_value, other_p)
        interval = Interval(mean=interval.mean, low=min(interval.low, other.low), high=max(interval.high, other.high))
    return Paired(
        difference=interval,
        p_value=p_value,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def _apart(sums: Array, sizes: Array, drawn: Array | None) -> int | None:
    """How many groups are apart from the others, where these are nearly all alike; None where they are not.

    They are where fewer than LEAST groups have another value than the commonest, or where the few that make the spread
    are so often not drawn that the bootstrap-t has no quantile.
    """
    if len(sums) < NEARLY_FROM:
        return None
    values = np.round(sums / sizes, 9)
    others = len(sums) - max(Counter(values.tolist()).values())
    if others < LEAST or drawn is None:
        return others if others < LEAST else None
    _, error = (float(one[0]) for one in _means(_columns(sums, sizes).sum(axis=0)[None], len(sums)))
    if (_means(drawn, len(sums))[1] < APART * error).mean() <= ALPHA / 2:
        return None
    distances = np.abs(values - np.median(values))
    return int((distances > APART * distances.max()).sum())


def _bootstrap_t(sums: Array, sizes: Array, drawn: Array, bounds: tuple[float, float]) -> tuple[Interval, float] | None:
    """Interval and p-value of the bootstrap-t; None where nothing varies.

    `drawn` holds a row for each resample: the totals of the columns that `_columns` gives. The quantiles of each side
    are its own, so that a long tail on one side widens the interval on the other.
    """
    mean, error = (float(one[0]) for one in _means(_columns(sums, sizes).sum(axis=0)[None], len(sums)))
    if error <= _dust(sums):
        return None
    means, errors = _means(drawn, len(sums))
    shift = means - mean
    shift[np.abs(shift) < 1e-12 * np.abs(sums).max()] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 1e-6 * error, shift / errors, np.where(shift == 0, 0.0, np.sign(shift) * np.inf))
    kept = int(ALPHA / 2 * (len(t) + 1) + 1e-9)
    ordered = np.sort(t)
    lowest, highest = (ordered[kept - 1], ordered[-kept]) if kept else (-np.inf, np.inf)
    low, high = (float(np.clip(mean - end * error, *bounds)) for end in (highest, lowest))
    beyond = min(int((t >= mean / error).sum()), int((t <= mean / error).sum()))
    return Interval(mean=mean, low=low, high=high), min(1.0, 2 * (1 + beyond) / (len(t) + 1))


def _columns(sums: Array, sizes: Array) -> Array:
    """What a resample's mean and standard error are made of, (groups, 5); the first two are all that flips need."""
    return np.stack([sums, sizes, sums**2, sums * sizes, sizes**2], axis=1)


def _means(totals: Array, groups: int) -> tuple[Array, Array]:
    """The mean and its standard error for rows of totals of `_columns`."""
    total, count, squares, mixed, counts = totals.T
    means = total / count
    spread = np.maximum(squares - 2 * means * mixed + means**2 * counts, 0.0) * groups / (groups - 1)
    return means, np.sqrt(spread) / count


def _resampled(columns: Array, resamples: int, seed: int) -> Array:
    """The totals of columns of (groups, columns) over as many groups drawn with replacement, a row each time."""
    rng = np.random.default_rng(seed)
    groups, totals = len(columns), []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        cells = rng.integers(0, groups, (size, groups)) + groups * np.arange(size)[:, None]
        times = np.bincount(cells.ravel(), minlength=size * groups).reshape(size, groups)
        totals.append(times.astype(np.float64) @ columns)
    return np.concatenate(totals)


def standard_error(values: Sequence[float], groups: Sequence[str] | None = None) -> tuple[float, float]:
    """The standard error of the mean, robust to groups, and its degrees of freedom; (0, 0) for a single group.

    Groups of unequal size count as fewer (Kish, 1965).
    """
    sums, sizes = _cluster(values, groups)
    if len(sums) < 2:
        return 0.0, 0.0
    total = sizes.sum()
    residuals = sums - sizes * sums.sum() / total
    error = float(sqrt(float((residuals**2).sum()) * len(sums) / (len(sums) - 1)) / total)
    return error if error > _dust(sums) else 0.0, float(max(total**2 / (sizes**2).sum() - 1, 1.0))


def _dust(sums: Array) -> float:
    """The standard error up to which the sums are alike but for rounding: tenths are not exact in floating point."""
    return 1e-9 * float(np.abs(sums).max(initial=0.0))


def smallest_detectable(
    differences: Sequence[float], *, groups: Sequence[str] | None = None, alpha: float = ALPHA, share: float = 1.0
) -> float | None:
    """The smallest true mean that a test at level `alpha` on as many such differences finds 8 times of 10.

    `share` is the share of the records that bring the whole gain, the others none: 1 for a gain that all share alike,
    FEW for one that few bring, which takes a larger mean to find since it spreads the differences. None where none can
    be stated: nothing varies, the groups are too few, or it would exceed 100 points.
    """
    sums, sizes = _cluster(differences, groups)
    error, freedom = standard_error(differences, groups)
    if error == 0 or 2.0 ** (1 - len(sums)) > alpha / SWEEP:
        return None
    total = sizes.sum()
    residuals = sums - sizes * sums.sum() / total
    tails = float((residuals**4).mean() / (residuals**2).mean() ** 2)
    # The spread is itself an estimate; taken at the upper end of its error, what is stated rarely promises too much.
    caution = sqrt(1 + CAUTION * sqrt(max(tails - 1, 2.0) / len(sums)))
    # The bootstrap-t has longer tails, most in unequal groups. What few bring is found 8 times of 10 without this.
    if len(sums) >= SKEW_FROM and share == 1:
        freedom *= freedom / (len(sums) - 1) / 2
    reach = detectable_errors(freedom, alpha) * caution
    growth, of_share = error_growth(differences, groups=groups, share=share)
    left = 1 - reach**2 * of_share
    if left <= 0:
        return None
    half = reach**2 * growth / 2 / left
    smallest = half + sqrt(half**2 + (reach * error) ** 2 / left)  # x² = reach² (error² + x · growth + x² · of_share)
    return float(smallest) if smallest <= 100 else None


def error_growth(
    differences: Sequence[float], *, groups: Sequence[str] | None = None, share: float = 1.0
) -> tuple[float, float]:
    """What a true mean x adds to the squared standard error of such differences, as factors of x and of x².

    Where groups tie some of them differ then, each as much as those that do now; in full from half of them tied. Where
    a `share` of the groups brings all of x, it comes with its own spread among the groups.
    """
    sums, sizes = _cluster(differences, groups)
    differing = sums[sums != 0]
    tied = 1 - len(differing) / len(sums)
    squares, distances = float((differing**2).sum()), float(np.abs(differing).sum())
    growth = min(1.0, 2 * tied) * squares / distances / sizes.sum() if distances else 0.0
    return float(growth), (1 / share - 1) / len(sums)


def detectable_errors(freedom: float, alpha: float = ALPHA) -> float:
    """How many standard errors a mean must lie from 0 to be found 8 times of 10; 2.8 with many items.

    Student's quantiles allow for the error's being an estimate itself.
    """
    return float(stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, POWER))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being several, in the same order (Holm, 1979): at most one family in 20 errs."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _cluster(values: Sequence[float] | Array, groups: Sequence[str] | None) -> tuple[Array, Array]:
    """Each group's sum and size."""
    data = np.asarray(values, dtype=np.float64)
    if groups is None:
        return data, np.ones(len(data), dtype=np.float64)
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(place, data).astype(np.float64), np.bincount(place).astype(np.float64)


def _flipped(columns: Array, resamples: int, seed: int) -> Array:
    """The totals of columns of (groups, columns) after each flip of their rows' signs; what was seen comes first."""
    return np.concatenate([signs @ columns for signs in _signs(len(columns), resamples, seed)])


def _signs(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """Blocks of rows of signs, (rows, clusters); all there are where `resamples` would be no fewer."""
    if clusters - 1 <= log2(resamples):
        # Turning every sign changes neither test nor interval, so the last one may stay.
        bits = np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters) & 1
        yield (1 - 2 * bits).astype(np.float64)
        return
    rng = np.random.default_rng(seed)
    yield np.ones((1, clusters))
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start), clusters
        yield (rng.integers(0, 2, size, dtype=np.int8) * 2 - 1).astype(np.float64)


def _interval(sums: Array, sizes: Array, totals: Array, counts: Array, bounds: tuple[float, float]) -> Interval:
    """All means within `bounds` that the flips do not reject, in closed form.

    A flip rejects no mean m + x (x > 0) up to the x at which its total of the values less m + x is no longer as far
    from 0 as the unflipped one's; likewise below m.
    """
    n = sizes.sum()
    mean = sums.sum() / n
    rest = totals - counts * mean
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.stack([np.abs(rest) / (n + counts), np.abs(rest) / (n - counts)])
    above = np.where(rest > 0, reach[0], reach[1])
    below = np.where(rest > 0, reach[1], reach[0])
    ends = []
    for reached in (below, above):
        reached[np.abs(counts) == n] = np.inf  # all signs alike: as far as what was seen, whatever the mean
        kept = int(ALPHA * len(reached) + 1e-9)
        ends.append(np.partition(reached, len(reached) - 1 - kept)[len(reached) - 1 - kept])
    low, high = (float(np.clip(end, *bounds)) for end in (mean - ends[0], mean + ends[1]))
    return Interval(mean=float(mean), low=low, high=high)


def _allow_for_unseen(interval: Interval, differing: int, sizes: Array, bounds: tuple[float, float]) -> Interval:
    """The interval, and where fewer than LEAST groups differ from all others what chance may have kept from being seen.

    As many groups may differ as Poisson's upper limit says (Garwood, 1936), those beyond what was seen by all that a
    score can; the rule of three in its two-sided form.
    """
    if differing >= LEAST:
        return interval
    unseen = float(gammaincinv(differing + 1, 1 - ALPHA / 2)) - differing
    return _widened(interval, unseen * bounds[1] * float(sizes.max() / sizes.sum()), bounds)


def _widened(interval: Interval, reach: float, bounds: tuple[float, float]) -> Interval:
    """The interval that reaches as far from the mean on both sides, if it did not before; within `bounds`."""
    low, high = min(interval.low, interval.mean - reach), max(interval.high, interval.mean + reach)
    return Interval(mean=interval.mean, low=max(low, bounds[0]), high=min(high, bounds[1]))


def _p_of_unseen(mean: float, differing: int, sizes: Array, bounds: tuple[float, float]) -> float:
    """The level at which what `_allow_for_unseen` adds to an interval around `mean` begins to leave out 0."""
    share = float(sizes.max() / sizes.sum()) * bounds[1]
    return min(1.0, 2 * float(gammaincc(differing + 1, abs(mean) / share + differing)))
