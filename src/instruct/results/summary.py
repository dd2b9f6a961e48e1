"""metrics/summary.json: the few numbers that a reviewer acts on, and the only ones that DVC shows of `evaluate`."""

from instruct.results.schema import DECIMALS, REFERENCE, JudgeResults, Results
from instruct.results.scores import ScoreResults

MOST = 12  # numbers


def summary_of(results: Results) -> dict[str, float]:
    """At most MOST numbers under names that mean the same in every run.

    The primary score of every system, the primary system's difference from the best baseline, which the name holds,
    with its 95 % interval, both systems' other scores (of the headline, and by the main judge if that is a model), and
    of the primary system the share of answers that ended by themselves. What does not exist is absent. A
    preference-tuned system's `gain` over the one before it comes before other scores.
    """
    first, *others = results.headline
    judge, difference = results.main_judge, first.difference_of(results.primary)
    numbers: dict[str, float | None] = {
        f"difference_{difference.against}": difference.mean,
        f"difference_low_{difference.against}": difference.low,
        f"difference_high_{difference.against}": difference.high,
        "ended": round(100 * results.system(results.primary).ended, DECIMALS),
    }
    if step := first.step_of(results.primary):
        numbers |= {"gain": step.mean, "gain_low": step.low, "gain_high": step.high}
        numbers |= {_name(first, step.system): first.scores_of(step.system).mean}
        numbers |= {_name(first, step.against): first.scores_of(step.against).mean}
    if judge.name != REFERENCE:
        numbers["unscored"] = sum(one.unscored for one in judge.systems)
        others += [] if judge is first else [judge]
    for one in others:
        known = {found.system: found.mean for found in one.systems}
        both = (results.primary, results.previous or results.against)
        numbers |= {_name(one, system): known[system] for system in both if system in known}
    shown = dict.fromkeys([results.primary, results.against, *results.names])  # first to last to stay where many
    numbers |= {
        _name(first, system): first.scores_of(system).mean for system in list(shown)[: max(0, MOST - len(numbers))]
    }
    return {name: value for name, value in list(numbers.items())[:MOST] if value is not None}


def _name(score: ScoreResults, system: str) -> str:
    return f"{'score' if isinstance(score, JudgeResults) else score.name}_{system}"
