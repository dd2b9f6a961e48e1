"""metrics/summary.json: the few numbers that a reviewer acts on, and the only ones that DVC shows of `evaluate`."""

from instruct.results.schema import DECIMALS, Results

MOST = 12  # numbers


def summary_of(results: Results) -> dict[str, float]:
    """At most MOST numbers under names that stay the same from run to run.

    The main judge's mean of each system, the primary system's difference from the first with its 95 % interval, and of
    the primary system exact match and the share of answers that ended by themselves. What does not exist is absent.
    """
    judge, primary = results.main_judge, results.system(results.primary)
    difference = judge.difference_of(results.primary)
    numbers: dict[str, float | None] = {
        "records": results.test.records,
        "unscored": sum(one.unscored for one in judge.systems),
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "exact_match": primary.measures["exact_match"],
        "ended": round(100 * primary.ended, DECIMALS),
    }
    shown = [results.primary, results.against, *results.names[1:-1]]  # first to last to stay, where they are many
    numbers |= {f"score_{name}": judge.scores_of(name).mean for name in shown[: MOST - len(numbers)]}
    return {name: value for name, value in numbers.items() if value is not None}
