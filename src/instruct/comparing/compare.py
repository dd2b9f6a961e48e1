"""Compares two runs, or two recipes of several runs each: every score's difference and what may be said of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from instruct.comparing.guard import changes_among
from instruct.comparing.seeds import Array, by_training, check_one_recipe, compare_recipes, records_with
from instruct.core.errors import DataError, ParamsError
from instruct.core.params import did_you_mean
from instruct.results.runs import Run
from instruct.results.schema import REFERENCE
from instruct.statistics import ALPHA, Interval, Paired, holm, paired_tests, smallest_detectable

RESAMPLES, SEED = 10_000, 123
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, kw_only=True)
class ScoreChange:
    """One score of B against A over the `count` records, in so many `groups`, that have it in both.

    `missing` records lack it in a run; `turned` says that those that one side has and the other lacks could turn what
    is found into its contrary. `corrected` is Holm's p-value among all scores compared. `smallest` is the smallest true
    difference that would be found 8 times of 10 after the correction, None where none can be stated. `of_recipes` says
    that a side has several trainings.
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
    of_recipes: bool = False

    @property
    def verdict(self) -> Verdict:
        """What may be said of B after the correction for several scores."""
        if self.corrected > ALPHA or self.turned:
            return "not distinguishable"
        return "better" if self.difference.mean > 0 else "worse"

    @property
    def in_words(self) -> str:
        """The verdict, and for one that says nothing the reason."""
        if self.verdict != "not distinguishable":
            return self.verdict
        if self.corrected <= ALPHA:
            return f"not distinguishable ({self.missing} records lack a score in one run, which could turn it)"
        if self.ties == self.count:
            return "not distinguishable (the same on every record)"
        if self.smallest is None:
            seeds = " and so few seeds" if self.of_recipes else ""
            groups = f" in {self.groups} groups" if self.groups < self.count else ""
            return f"not distinguishable (too little to find one with: {self.count} records{groups}{seeds})"
        smallest = f"{self.smallest:.1f}" if self.smallest >= 0.1 else f"{self.smallest:.2g}"
        return f"not distinguishable (smallest detectable: {smallest})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that `instruct compare` says.

    `changes` are why the runs are not comparable; empty where they are. `left_out` are scores that were not compared
    though a run has them, each with the reason. `identical` says that all runs gave the same answers, byte for byte.
    """

    a: tuple[Run, ...]
    b: tuple[Run, ...]
    changes: tuple[str, ...]
    left_out: tuple[str, ...]
    unmatched: int
    records: int
    groups: int
    scores: tuple[ScoreChange, ...]
    identical: bool = False

    @property
    def of_recipes(self) -> bool:
        """Whether this speaks of recipes, of which a side shows several trainings, or of two trained models."""
        return any(score.of_recipes for score in self.scores)

    @property
    def verdict(self) -> str:
        """One sentence over all scores."""
        if self.changes:
            return f"{side_name(self.b)} and {side_name(self.a)} are not comparable."
        a, b = side_name(self.a), side_name(self.b)
        if self.identical:
            return f"{b} and {a} gave the same answers, byte for byte."
        found: tuple[Verdict, ...] = ("better", "worse")
        names = {verdict: [score.name for score in self.scores if score.verdict == verdict] for verdict in found}
        parts = [f"{verdict} in {', '.join(names[verdict])}" for verdict in found if names[verdict]]
        if parts:
            return f"{b} is {' and '.join(parts)} than {a}."
        where = "any score" if len(self.scores) > 1 else self.scores[0].name
        return f"{b} is not distinguishable from {a} in {where}."


def side_name(runs: Sequence[Run]) -> str:
    """The runs of one side as the user named them."""
    return " + ".join(run.name for run in runs)


class NotComparableError(DataError):
    """Two sides between which no difference may be stated; `reasons` are why, one line each."""

    def __init__(self, a: Sequence[Run], b: Sequence[Run], reasons: Sequence[str], remedy: str) -> None:
        lines = "\n".join(f"  {reason}" for reason in reasons)
        super().__init__(f"{side_name(a)} and {side_name(b)} are not comparable:\n{lines}\n{remedy}")
        self.reasons = tuple(reasons)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Two sides that may be compared, or are in spite of `changes`: the scores that all runs have, record by record."""

    pairs: list["PairedScores"]
    changes: list[str]
    left_out: list[str]
    records: list[str]
    unmatched: int


def prepare(a: Sequence[Run], b: Sequence[Run], *, chosen: Sequence[str] = (), anyway: bool = False) -> Prepared:
    """Pair the scores of recipe B's runs with those of recipe A's on the records that all of them answered.

    `chosen` names the scores, all that both have by default. Raises NotComparableError if the guard finds
    a change and `anyway` is not set, or records differ; DataError or ParamsError if a score, record or seed is missing.
    """
    for side in (a, b):
        check_one_recipe(side)
    runs = (*a, *b)
    names, left_out = choose_scores(runs, chosen)
    changes = changes_among(runs, names if chosen else [*names, *replaced_judges(a, b)])
    if changes and not anyway:
        remedy = "run both with the same, or add --anyway for a report that is marked as not comparable"
        raise NotComparableError(a, b, changes, remedy)
    everywhere = [id_ for id_ in a[0].groups if all(id_ in run.groups for run in runs)]
    unmatched = len({id_ for run in runs for id_ in run.groups}) - len(everywhere)
    if not everywhere:
        raise NotComparableError(a, b, ["no record in common"], "compare runs of one test set")
    if unmatched and not changes:
        reason = f"{unmatched} records are not in each one's metrics/scores.csv, though the test set is the same"
        raise NotComparableError(a, b, [reason], "run `dvc repro evaluate` in both")
    pairs = [pair_scores(a, b, name, everywhere) for name in names]
    return Prepared(pairs=pairs, changes=changes, left_out=left_out, records=everywhere, unmatched=unmatched)


def change_scores(pairs: Sequence["PairedScores"], *, resamples: int = RESAMPLES) -> list[ScoreChange]:
    """What the paired tests say of each, p-values and smallest detectable differences corrected for their number."""
    tests = paired_tests([(pair.differences, pair.groups) for pair in pairs], resamples=resamples, seed=SEED)
    results = [score_change(pair, test, ALPHA / len(pairs)) for pair, test in zip(pairs, tests, strict=True)]
    corrected = holm([result.p_value for result in results])
    return [replace(result, corrected=p_value) for result, p_value in zip(results, corrected, strict=True)]


def compare(a: Sequence[Run], b: Sequence[Run], *, chosen: Sequence[str] = (), anyway: bool = False) -> Comparison:
    """Compare the runs of recipe B with those of recipe A, as `prepare` pairs them; correct for all their scores."""
    found = prepare(a, b, chosen=chosen, anyway=anyway)
    answers = {run.results.system(run.results.primary).md5 for run in (*a, *b)}
    return Comparison(
        a=tuple(a),
        b=tuple(b),
        changes=tuple(found.changes),
        left_out=tuple(found.left_out),
        unmatched=found.unmatched,
        records=len(found.records),
        groups=len({a[0].groups[id_] for id_ in found.records}),
        scores=tuple(change_scores(found.pairs)),
        identical=len(answers) == 1,
    )


def choose_scores(runs: Sequence[Run], chosen: Sequence[str]) -> tuple[list[str], list[str]]:
    """The scores to compare, and a line for each left out: those chosen, or else all that every run has of a record.

    `reference` is `similarity` by name. Raises ParamsError for one chosen that a run lacks, DataError where they share
    none.
    """
    everywhere = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    for name in chosen:
        if name not in everywhere:
            raise ParamsError(f'there is no score "{name}" in every run{did_you_mean(name, everywhere)}')
    if chosen:
        return list(dict.fromkeys(chosen)), []
    if not everywhere:
        raise DataError(f"{runs[0].name} and {runs[-1].name}: no score in common; judge both with the same judge")
    empty = [name for name in everywhere if not records_with(runs, name)]
    names = [name for name in everywhere if name not in empty] or everywhere
    # The judge `reference` and the measure `similarity` are one number; it is not corrected for twice.
    if REFERENCE in names and all(run.scores[REFERENCE] == run.scores.get("similarity") for run in runs):
        names = [name for name in names if name != "similarity"]
    lacking = {name: [run.name for run in runs if name not in run.scores] for run in runs for name in run.scores}
    left_out = [f"{name}: not in {', '.join(of)}, so not compared" for name, of in lacking.items() if of]
    left_out += [f"{name}: no record has this score in every run, so not compared" for name in empty]
    return names, left_out


def replaced_judges(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """All judges where one of A's has not judged B; empty where B's judges are A's and perhaps more."""
    judges = [{judge.name for run in side for judge in run.results.judges} for side in (a, b)]
    return sorted(judges[0] | judges[1]) if judges[0] - judges[1] else []


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """One score of both sides: (trainings, records) in `a` and `b`, of the records that have it in every run.

    `missing` and `turned` are as in ScoreChange.
    """

    name: str
    a: Array
    b: Array
    groups: Sequence[str]
    missing: int
    turned: bool

    @property
    def differences(self) -> Array:
        """The mean over B's trainings less that over A's, record by record."""
        return self.b.mean(axis=0) - self.a.mean(axis=0)


def pair_scores(a: Sequence[Run], b: Sequence[Run], name: str, ids: Sequence[str]) -> PairedScores:
    """One score of both sides on these records; raises DataError where none of them has it in every run."""
    tables = [by_training(side, name, ids) for side in (a, b)]
    left, right = (table.mean(axis=0) for table in tables)  # NaN without a score
    scored = ~np.isnan(right - left)
    if not scored.any():
        raise DataError(f"{name}: no record has this score in both runs; choose others with --score")
    groups = [a[0].groups[id_] for id_, has in zip(ids, scored, strict=True) if has]
    return PairedScores(
        name=name,
        a=tables[0][:, scored],
        b=tables[1][:, scored],
        groups=groups,
        missing=len(ids) - len(groups),
        turned=_could_turn(left, right),
    )


def score_change(pair: PairedScores, paired: Paired, level: float) -> ScoreChange:
    """What the paired test of `pair.differences` says of it; the smallest detectable difference is that of `level`."""
    difference, p_value = paired.difference, paired.p_value
    of_recipes = len(pair.a) + len(pair.b) > 2
    if of_recipes:
        difference, p_value, smallest = compare_recipes(pair.a, pair.b, pair.groups, level=level)
        # What these trained models do not show, their recipes do not either.
        low, high = min(difference.low, paired.difference.low), max(difference.high, paired.difference.high)
        difference, p_value = replace(difference, low=low, high=high), max(p_value, paired.p_value)
    else:
        smallest = smallest_detectable(pair.differences.tolist(), groups=pair.groups, alpha=level)
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
        of_recipes=of_recipes,
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
