import pytest

from instruct.results.scores import Difference, verdict_of, worst_and_best


@pytest.mark.parametrize(
    ("mean", "p_value", "turned", "verdict"),
    [
        (2.0, 0.05, False, "better"),  # the level itself is still significant
        (-2.0, 0.05, False, "worse"),
        (2.0, 0.0501, False, "not distinguishable"),
        (2.0, 0.001, True, "not distinguishable"),
        (0.0, 0.001, False, "not distinguishable"),
    ],
)
def test_a_verdict_needs_a_difference_that_is_significant_and_that_no_missing_score_turns(
    mean, p_value, turned, verdict
):
    assert verdict_of(mean, p_value, turned=turned) == verdict


def test_a_record_that_both_lack_says_nothing_of_the_worst_and_the_best():
    assert worst_and_best([50.0, None], [60.0, None]) == (10, 10)
    assert worst_and_best([50.0, None, 50.0], [60.0, 40.0, None]) == ((10 - 60 - 50) / 3, (10 + 40 + 50) / 3)


@pytest.mark.parametrize(("mean", "worst", "best", "turned"), [(5, 0, 9, False), (5, -1, 9, True), (-5, -9, 0, False)])
def test_missing_scores_turn_a_difference_only_into_its_contrary(mean, worst, best, turned):
    rest = {"count": 8, "low": 1.0, "high": 9.0, "p_value": 0.001, "wins": 8, "ties": 0, "losses": 0}
    one = Difference(system="sft", against="base", mean=mean, worst_case=worst, best_case=best, **rest)
    assert one.turned is turned
