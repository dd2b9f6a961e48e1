"""Every run against one of them: refused where `instruct compare` refuses the pair, and with the numbers it gives."""

from collections.abc import Sequence
from dataclasses import replace

from instruct.comparing.compare import RESAMPLES, SEED, ScoreChange, pair_scores, score_change
from instruct.comparing.guard import find_changes
from instruct.comparing.runs import Run
from instruct.comparing.seeds import check_one_recipe, records_with
from instruct.core.errors import InstructError
from instruct.statistics import ALPHA, holm, paired_tests

FEWEST = 40  # flips for each run compared: a p-value can fall to half of ALPHA after Holm's correction


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
    pairs = [pair_scores([against], [run], judge, list(against.groups)) for run in runs]
    resamples = max(RESAMPLES, FEWEST * len(runs))
    tests = paired_tests([(pair.differences, pair.groups) for pair in pairs], resamples=resamples, seed=SEED)
    corrected = holm([test.p_value for test in tests])
    return [
        replace(score_change(pair, test, ALPHA / len(runs)), corrected=p_value)
        for pair, test, p_value in zip(pairs, tests, corrected, strict=True)
    ]
