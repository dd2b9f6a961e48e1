"""One score of several systems: means, paired differences and slices, and what may be said of a difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from instruct.core.params import require
from instruct.statistics import ALPHA

Verdict = Literal["better", "worse", "not distinguishable"]


def verdict_of(mean: float, p_value: float, *, turned: bool) -> Verdict:
    """What may be said of a difference of this mean; `turned` is whether missing scores could turn it."""
    if p_value > ALPHA or turned or mean == 0:
        return "not distinguishable"
    return "better" if mean > 0 else "worse"


def worst_and_best(a: Sequence[float | None], b: Sequence[float | None]) -> tuple[float, float]:
    """The mean of b - a if every missing score were the worst for b, and the best.

    A record that both lack says nothing of either. Raises ZeroDivisionError where there is no other.
    """
    asked = [(one, other) for one, other in zip(a, b, strict=True) if not (one is None and other is None)]
    low = [(0.0 if other is None else other) - (100.0 if one is None else one) for one, other in asked]
    high = [(100.0 if other is None else other) - (0.0 if one is None else one) for one, other in asked]
    return sum(low) / len(asked), sum(high) / len(asked)


@dataclass(frozen=True, kw_only=True)
class SystemScores:
    """One judge's scores of one system. Only the counts exist if nothing was scored.

    Of a judge of pairs, whose scores are shares of wins: `orders` are pairs that were read in both orders, `consistent`
    those in which both orders agree, and `first_place_won` is the share of verdicts with a winner that the first place
    won, absent where there is none. `mean_spread` and `flipped`, the share of answers whose repeats differ, exist where
    answers are judged several times.
    """

    system: str
    scored: int
    unscored: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    worst_case: float | None = None
    best_case: float | None = None
    q1: float | None = None
    median: float | None = None
    q3: float | None = None
    mean_spread: float | None = None
    flipped: float | None = None
    failed_repeats: int | None = None
    orders: int | None = None
    consistent: int | None = None
    first_place_won: float | None = None

    def __post_init__(self) -> None:
        _require_if(self, self.scored > 0, "mean", "low", "high", "worst_case", "best_case", "q1", "median", "q3")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One system against another, over the `count` records that have both scores. Only the count exists if it is 0."""

    system: str
    against: str
    count: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    worst_case: float | None = None
    best_case: float | None = None

    def __post_init__(self) -> None:
        numbers = ("mean", "low", "high", "p_value", "wins", "ties", "losses", "worst_case", "best_case")
        _require_if(self, self.count > 0, *numbers)

    @property
    def turned(self) -> bool:
        """Whether the scores that one of the two lacks could turn what is found into its contrary."""
        worst, best = self.worst_case or 0.0, self.best_case or 0.0
        return worst < 0 if (self.mean or 0.0) > 0 else best > 0

    @property
    def verdict(self) -> Verdict:
        """What may be said of the system."""
        if self.mean is None or self.p_value is None:
            return "not distinguishable"
        return verdict_of(self.mean, self.p_value, turned=self.turned)


@dataclass(frozen=True, kw_only=True)
class SliceScore:
    """One system's mean over its `records` of a slice."""

    system: str
    records: int
    scored: int
    mean: float | None = None

    def __post_init__(self) -> None:
        _require_if(self, self.scored > 0, "mean")


@dataclass(frozen=True, kw_only=True)
class SliceChange:
    """One system against another over a slice; the interval exists where there are pairs enough."""

    system: str
    against: str
    count: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _require_if(self, self.count > 0, "mean")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Records with one value of a property; without `differences` for a property of the answer, not of the task."""

    property: str
    value: str
    systems: tuple[SliceScore, ...]
    differences: tuple[SliceChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScoreResults:
    """One score of every system. `differences` are of every other system against the best baseline.

    `over_previous` are of each further trained system against the one before it: None where one alone was trained. A
    judge of pairs may know two trained systems alone: then `differences` are of the last against the one before it.
    """

    name: str
    systems: tuple[SystemScores, ...]
    differences: tuple[Difference, ...]
    slices: tuple[Slice, ...]
    over_previous: tuple[Difference, ...] | None = None

    @property
    def against(self) -> str:
        """The system that `differences` are from."""
        return self.differences[0].against

    def scores_of(self, system: str) -> SystemScores:
        return next(one for one in self.systems if one.system == system)

    def difference_of(self, system: str) -> Difference:
        """A system against the best baseline."""
        return next(one for one in self.differences if one.system == system)

    def step_of(self, system: str) -> Difference | None:
        """A further trained system against the one before it; None for any other."""
        return next((one for one in self.over_previous or () if one.system == system), None)


def _require_if(record: Any, wanted: bool, *names: str) -> None:
    """These fields exist if and only if something was counted."""
    for name in names:
        value = getattr(record, name)
        require(
            name, "absent" if value is None else value, (value is not None) == wanted, "there" if wanted else "absent"
        )
