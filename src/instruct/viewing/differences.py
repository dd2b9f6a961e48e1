"""Runs against each other: without a verdict where `instruct compare` gives none, and with the numbers it gives."""

from collections.abc import Sequence

from instruct.comparing.compare import SAME_ANSWERS, NotComparableError, prepare, same_answers
from instruct.comparing.guard import find_changes
from instruct.comparing.scores import RESAMPLES, PairedScores, ScoreChange, change_scores
from instruct.core.errors import InstructError
from instruct.results.runs import Run

FEWEST = 40  # flips for each run compared: a p-value can fall to half of ALPHA after Holm's correction


def compare_with(against: Run, runs: Sequence[Run], judge: str) -> list[ScoreChange | tuple[str, ...]]:
    """The difference of each run from one by a judge, corrected for the number of runs, or why there is none."""
    found = [_pair(against, run, judge) for run in runs]
    pairs = [pair for pair in found if isinstance(pair, PairedScores)]
    changes = iter(change_scores(pairs, resamples=max(RESAMPLES, FEWEST * len(pairs))))
    return [next(changes) if isinstance(pair, PairedScores) else pair for pair in found]


def _pair(against: Run, run: Run, judge: str) -> PairedScores | tuple[str, ...]:
    try:
        pair = prepare([against], [run], chosen=[judge]).pairs[0]
    except NotComparableError as error:
        return error.reasons
    except InstructError as error:
        return (str(error),)
    return (SAME_ANSWERS,) if pair.differences.any() and same_answers([against, run]) else pair


def comparable_groups(runs: Sequence[Run | None]) -> list[dict[str, int]]:
    """The group of each run by score; two runs may be compared in a score if their group is the same."""
    return [
        {name: _group_of(run, runs[:place], name) for name in run.scores} if run else {}
        for place, run in enumerate(runs)
    ]


def _group_of(run: Run, earlier: Sequence[Run | None], score: str) -> int:
    """The place of the first earlier run that a run may be compared with in a score, or its own."""
    alike = (place for place, one in enumerate(earlier) if one and not any(find_changes(one, run, [score])))
    return next(alike, len(earlier))
