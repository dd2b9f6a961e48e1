"""What scores of single answers add up to: means of systems with intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from statistics import mean, quantiles

from instruct.core.records import Response
from instruct.evaluation.settings import EvaluateParams
from instruct.results.schema import DECIMALS
from instruct.results.scores import Difference, SystemScores, worst_and_best
from instruct.results.table import Scores
from instruct.statistics import mean_interval, paired_test


def clusters_of(records: Sequence[Response]) -> dict[str, str]:
    """The group of near-duplicates of each record by id; a record without one is its own group."""
    return {one.id: one.group or one.id for one in records}


def describe_scores(system: str, scores: Scores, clusters: Mapping[str, str], params: EvaluateParams) -> SystemScores:
    """One system's mean with its interval, its quartiles, and what its missing scores could make of the mean."""
    known = {id_: score for id_, score in scores.items() if score is not None}
    unscored = len(scores) - len(known)
    if not known:
        return SystemScores(system=system, scored=0, unscored=unscored)
    values = list(known.values())
    groups = [clusters[id_] for id_ in known]
    interval = mean_interval(values, resamples=params.resamples, seed=params.seed, groups=groups)
    lower, middle, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return SystemScores(
        system=system,
        scored=len(known),
        unscored=unscored,
        mean=rounded(interval.mean),
        low=rounded(interval.low),
        high=rounded(interval.high),
        worst_case=rounded(sum(values) / len(scores)),
        best_case=rounded((sum(values) + 100.0 * unscored) / len(scores)),
        q1=rounded(lower),
        median=rounded(middle),
        q3=rounded(upper),
    )


def compare_systems(
    against: str, system: str, scores: Mapping[str, Scores], clusters: Mapping[str, str], params: EvaluateParams
) -> Difference:
    """One system minus another over the records that have both scores, and what the others could make of it at most."""
    pairs = {id_: (score, scores[system][id_]) for id_, score in scores[against].items()}
    both = {id_: (a, b) for id_, (a, b) in pairs.items() if a is not None and b is not None}
    if not both:
        return Difference(system=system, against=against, count=0)
    paired = paired_test(
        [a for a, _ in both.values()],
        [b for _, b in both.values()],
        resamples=params.resamples,
        seed=params.seed,
        groups=[clusters[id_] for id_ in both],
    )
    worst, best = worst_and_best([a for a, _ in pairs.values()], [b for _, b in pairs.values()])
    return Difference(
        system=system,
        against=against,
        count=len(both),
        mean=rounded(paired.difference.mean),
        low=rounded(paired.difference.low),
        high=rounded(paired.difference.high),
        p_value=round(paired.p_value, 6),
        wins=paired.wins,
        ties=paired.ties,
        losses=paired.losses,
        worst_case=rounded(worst),
        best_case=rounded(best),
    )


def mean_of(scores: Scores) -> float:
    """The mean of the scores that exist; 0 where none does."""
    known = [score for score in scores.values() if score is not None]
    return mean(known) if known else 0.0


def rounded(value: float) -> float:
    """A number as tracked files hold it: four decimals, and 0.0 for -0.0."""
    return round(value, DECIMALS) + 0.0
