"""Every run against one of them: refused where `instruct compare` refuses the pair, and with the numbers it gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instruct.comparing.compare import RESAMPLES, SEED, ScoreChange, records_with
from instruct.comparing.guard import find_changes
from instruct.comparing.runs import Run
from instruct.comparing.seeds import check_one_recipe
from instruct.errors import InstructError
from instruct.statistics import (
    ALPHA,
    Array,
    Paired,
    _allow_for_unseen,
    _cluster,
    _interval,
    _signs,
    holm,
    smallest_detectable,
)

FEWEST = 40  # flips for each run compared: a p-value can fall to half of ALPHA after Holm's correction


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One judge's scores of two runs on the records that both have scored, `missing` others aside."""

    before: Array
    after: Array
    groups: Sequence[str]
    missing: int

    @property
    def differences(self) -> Array:
        """After minus before, record by record."""
        return self.after - self.before


def find_reasons(against: Run, run: Run, judge: str) -> list[str]:
    """Why two runs have no difference by this judge, one line each; empty where `instruct compare` gives one."""
    sides = (against, run)
    try:
        for side in sides:
            check_one_recipe([side])
    except InstructError as error:
        return [str(error)]
    if lacking := [side.name for side in sides if judge not in side.scores]:
        return [f"metrics/scores.csv of {name} has no scores by {judge}" for name in lacking]
    if changes := find_changes(against, run, [judge]):
        return changes
    if unmatched := len(against.groups.keys() ^ run.groups.keys()):
        return [f"{unmatched} records are not in both runs' metrics/scores.csv, though the test set is the same"]
    return [] if records_with(sides, judge) else [f"no record has a score by {judge} in both runs"]


def compare_with(against: Run, runs: Sequence[Run], judge: str) -> list[ScoreChange]:
    """The difference of each run from one, for runs that `find_reasons` says nothing of.

    P-values and smallest detectable differences are corrected for the number of runs.
    """
    pairs = [_pair(against, run, judge) for run in runs]
    tests = paired_tests(pairs, resamples=max(RESAMPLES, FEWEST * len(runs)), seed=SEED)
    corrected = holm([test.p_value for test in tests])
    return [
        ScoreChange(
            name=judge,
            count=len(pair.groups),
            missing=pair.missing,
            a=float(pair.before.mean()),
            b=float(pair.after.mean()),
            difference=test.difference,
            p_value=test.p_value,
            corrected=p_value,
            wins=test.wins,
            ties=test.ties,
            losses=test.losses,
            smallest=smallest_detectable(pair.differences.tolist(), groups=pair.groups, alpha=ALPHA / len(runs)),
        )
        for pair, test, p_value in zip(pairs, tests, corrected, strict=True)
    ]


def paired_tests(pairs: Sequence[Pair], *, resamples: int, seed: int) -> list[Paired]:
    """What `paired_test` gives for each pair; pairs of as many groups share the flips, which are most of the work."""
    clusters = [_cluster(pair.differences, pair.groups) for pair in pairs]
    flipped: dict[int, tuple[Array, Array]] = {}
    for size in {len(sums) for sums, _ in clusters}:
        places = [place for place, (sums, _) in enumerate(clusters) if len(sums) == size]
        columns = np.stack([clusters[place][part] for part in (0, 1) for place in places], axis=1)  # (groups, 2 pairs)
        found = np.concatenate([signs @ columns for signs in _signs(size, resamples, seed)])  # (flips, 2 pairs)
        flipped |= {place: (found[:, i], found[:, i + len(places)]) for i, place in enumerate(places)}
    return [_paired(pair, *clusters[place], *flipped[place]) for place, pair in enumerate(pairs)]


def _paired(pair: Pair, sums: Array, sizes: Array, totals: Array, counts: Array) -> Paired:
    """`paired_test` from its flips onwards."""
    extreme = np.abs(totals) >= abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    bounds = (-100.0, 100.0)
    interval = _interval(sums, sizes, totals, counts, bounds)
    return Paired(
        difference=_allow_for_unseen(interval, int(np.count_nonzero(sums)), sizes, bounds),
        p_value=float(extreme.mean()),
        wins=int((pair.differences > 0).sum()),
        ties=int((pair.differences == 0).sum()),
        losses=int((pair.differences < 0).sum()),
    )


def _pair(against: Run, run: Run, judge: str) -> Pair:
    ids = records_with((against, run), judge)
    before, after = (np.array([side.scores[judge][id_] for id_ in ids], dtype=np.float64) for side in (against, run))
    groups = [against.groups[id_] for id_ in ids]
    return Pair(before=before, after=after, groups=groups, missing=len(against.groups) - len(ids))
