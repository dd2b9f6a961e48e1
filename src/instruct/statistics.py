"""Intervals and paired tests for scores: seeded, and checked against scipy.

Below a few hundred items normal-theory intervals are too narrow (Bowyer et al., 2025), so both come from
resampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 1000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval."""

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


def mean_interval(values: Sequence[float], *, resamples: int, seed: int) -> Interval:
    """The mean with the percentile bootstrap interval (Efron & Tibshirani, 1993, ch. 13)."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [rng.choice(data, (size, len(data))).mean(axis=1) for size in _blocks(resamples)]
    )  # (resamples,)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean=float(data.mean()), low=float(low), high=float(high))


def paired_test(a: Sequence[float], b: Sequence[float], *, resamples: int, seed: int) -> Paired:
    """Compare two systems on the same items by random sign flips (Fisher, 1935).

    The p-value is (1 + flips at least as far from 0) / (1 + resamples), so never 0 (Phipson & Smyth, 2010).
    """
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    observed = abs(differences.mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for size in _blocks(resamples):
        signs = rng.integers(0, 2, (size, len(differences))) * 2 - 1
        extreme += int((np.abs((signs * differences).mean(axis=1)) >= observed - 1e-12).sum())
    return Paired(
        difference=mean_interval(differences.tolist(), resamples=resamples, seed=seed),
        p_value=(1 + extreme) / (1 + resamples),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def _blocks(total: int) -> list[int]:
    return [min(_BLOCK, total - start) for start in range(0, total, _BLOCK)]
