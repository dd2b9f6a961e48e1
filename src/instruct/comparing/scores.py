"""One score of two sides: what its paired test says, and what may be said of it in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from instruct.comparing.recipes import compare_recipes, smallest_between_recipes
from instruct.comparing.seeds import Array, by_training, shared_groups
from instruct.core.errors import DataError
from instruct.results.runs import Run
from instruct.results.schema import ACCURACY
from instruct.results.scores import Verdict as Found
from instruct.results.scores import verdict_of
from instruct.statistics import ALPHA, FEW, Interval, Paired, holm, paired_tests, smallest_detectable, standard_error

RESAMPLES, SEED = 10_000, 123
SEEDS = 2  # trainings that each side needs before anything is said of a recipe
Verdict = Literal["better", "worse", "higher", "lower", "not distinguishable"]
OF_MODELS: dict[Found, Verdict] = {"better": "higher", "worse": "lower"}


@dataclass(frozen=True, kw_only=True)
class ScoreChange:
    """One score of B against A over the `count` records, in so many `groups`, that have it in both.

    `missing` records lack it in a run; `turned` says that those that one side has and the other lacks could turn what
    is found into its contrary. `corrected` is the p-value that decides: that of the primary score as it is, Holm's
    among the others where it is `exploratory`. `smallest` is the smallest true difference that would be found 8 times
    of 10 at that level, `smallest_few` the same where only a fifth of the records gain; None where none can be stated.
    `of_recipes` says that each side but a baseline has several trainings, without which trained models are compared.
    """

    name: str
    count: int
    groups: int
    missing: int
    turned: bool
    a: float
    b: float
    difference: Interval
    p_value: float
    corrected: float
    wins: int
    ties: int
    losses: int
    smallest: float | None
    smallest_few: float | None
    error: float
    of_recipes: bool = False
    exploratory: bool = False

    @property
    def found(self) -> Found:
        """What the test found of B, whatever it speaks of."""
        return verdict_of(self.difference.mean, self.corrected, turned=self.turned)

    @property
    def verdict(self) -> Verdict:
        """What may be said of B: better or worse of a recipe, higher or lower of a model that one seed gave."""
        return self.found if self.of_recipes else OF_MODELS.get(self.found, self.found)

    @property
    def unchanged(self) -> bool:
        """Whether both sides have the same score on every record."""
        return self.ties == self.count

    @property
    def title(self) -> str:
        """The score's name, with the number of records where only answers to some questions can have it."""
        return f"{self.name} ({self.count} closed questions)" if self.name == ACCURACY else self.name

    @property
    def in_words(self) -> str:
        """The verdict, and what it speaks of or, for one that says nothing, the reason."""
        if self.found != "not distinguishable":
            return self.verdict if self.of_recipes else f"{self.verdict} (these models differ)"
        if self.corrected <= ALPHA:
            return f"not distinguishable ({self.missing} records lack a score in one run, which could turn it)"
        if self.unchanged:
            return "not distinguishable (the same on every record)"
        if self.smallest is None:
            seeds = " and so few seeds" if self.of_recipes else ""
            groups = f" in {self.groups} groups" if self.groups < self.count else ""
            return f"not distinguishable (too little to find one with: {self.count} records{groups}{seeds})"
        return f"not distinguishable (smallest detectable: {points(self.smallest)})"


def points(value: float) -> str:
    """A difference in points, with the digits that it needs."""
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """One score of both sides: (trainings, records) in `a` and `b`, of the records that have it in every run.

    `missing` and `turned` are as in ScoreChange. `baseline` says that A is one, so that no seed moves it.
    """

    name: str
    a: Array
    b: Array
    groups: Sequence[str]
    missing: int
    turned: bool
    baseline: bool = False

    @property
    def of_recipes(self) -> bool:
        """Whether there are trainings enough to speak of recipes."""
        return len(self.b) >= SEEDS and (self.baseline or len(self.a) >= SEEDS)

    @property
    def differences(self) -> Array:
        """The mean over B's trainings less that over A's, record by record."""
        return self.b.mean(axis=0) - self.a.mean(axis=0)


def pair_scores(a: Sequence[Run], b: Sequence[Run], name: str, ids: Sequence[str]) -> PairedScores:
    """One score of both sides on these records; raises DataError where none of them has it in every run.

    An open question, which has no right answer in any run, is not one that lacks it.
    """
    if name == ACCURACY:
        scores = [run.scores[name] for run in (*a, *b)]
        ids = [id_ for id_ in ids if any(one.get(id_) is not None for one in scores)]
    tables = [by_training(side, name, ids) for side in (a, b)]
    left, right = (table.mean(axis=0) for table in tables)  # NaN without a score
    scored = ~np.isnan(right - left)
    if not scored.any():
        raise DataError(f"{name}: no record has this score in both runs; choose others with --score")
    groups = list(shared_groups((*a, *b), [id_ for id_, has in zip(ids, scored, strict=True) if has]).values())
    return PairedScores(
        name=name,
        a=tables[0][:, scored],
        b=tables[1][:, scored],
        groups=groups,
        missing=len(ids) - len(groups),
        turned=_could_turn(left, right),
        baseline=any(run.baseline for run in a),
    )


def score_change(pair: PairedScores, paired: Paired, level: float) -> ScoreChange:
    """What the paired test of `pair.differences` says of it; the smallest detectable difference is that of `level`."""
    difference, p_value = paired.difference, paired.p_value
    differences = pair.differences.tolist()
    if pair.of_recipes:
        difference, p_value = compare_recipes(pair.a, pair.b, pair.groups)
        smallest, smallest_few = (
            smallest_between_recipes(pair.a, pair.b, pair.groups, level=level, share=share) for share in (1.0, FEW)
        )
        # What these trained models do not show, their recipes do not either.
        low, high = min(difference.low, paired.difference.low), max(difference.high, paired.difference.high)
        difference, p_value = replace(difference, low=low, high=high), max(p_value, paired.p_value)
    else:
        smallest, smallest_few = (
            smallest_detectable(differences, groups=pair.groups, alpha=level, share=share) for share in (1.0, FEW)
        )
    return ScoreChange(
        name=pair.name,
        count=len(pair.groups),
        groups=len(set(pair.groups)),
        missing=pair.missing,
        turned=pair.turned,
        a=float(pair.a.mean()),
        b=float(pair.b.mean()),
        difference=difference,
        p_value=p_value,
        corrected=p_value,
        wins=paired.wins,
        ties=paired.ties,
        losses=paired.losses,
        smallest=smallest,
        smallest_few=smallest_few,
        error=standard_error(differences, pair.groups)[0],
        of_recipes=pair.of_recipes,
    )


def _could_turn(left: Array, right: Array) -> bool:
    """Whether scores that one side lacks, taken as 0 or 100 against what is found, could turn the mean's sign.

    A record that both lack was judged in neither, so it says nothing of either.
    """
    asked = ~(np.isnan(left) & np.isnan(right))
    found = np.nanmean(right - left)
    worst = (0.0, 100.0) if found > 0 else (100.0, 0.0)  # of what B lacks, of what A lacks
    least = np.nan_to_num(right[asked], nan=worst[0]) - np.nan_to_num(left[asked], nan=worst[1])
    return bool(least.mean() * found < 0)


def change_scores(pairs: Sequence[PairedScores], *, resamples: int = RESAMPLES) -> list[ScoreChange]:
    """What the paired tests say of each, p-values and smallest detectable differences corrected for their number."""
    tests = paired_tests([(pair.differences, pair.groups) for pair in pairs], resamples=resamples, seed=SEED)
    return correct_for_all(pairs, tests)


def correct_for_all(
    pairs: Sequence[PairedScores], tests: Sequence[Paired], *, exploratory: bool = False
) -> list[ScoreChange]:
    """One family: each with Holm's p-value among all, and the smallest difference at its part of the level."""
    results = [score_change(pair, test, ALPHA / len(pairs)) for pair, test in zip(pairs, tests, strict=True)]
    corrected = holm([result.p_value for result in results])
    changes = zip(results, corrected, strict=True)
    return [replace(result, corrected=p_value, exploratory=exploratory) for result, p_value in changes]
