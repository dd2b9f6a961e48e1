"""Agreement against tables worked out by hand."""

import numpy as np
import pytest

from instruct.evaluation.agreement import agree, agree_all, bands, kappa, wins
from instruct.results.schema import Agreement


def judged(first, second):
    return agree("one", "other", list(zip(first, second, strict=True)))


def test_correlations_are_those_of_a_table_worked_by_hand():
    # Of the six pairs of records five are in the same order and one is turned: tau 4/6. Ranks differ by 1 twice.
    found = judged([10, 20, 30, 40], [1, 2, 4, 3])
    assert (found.kendall, found.spearman, found.pearson) == (0.6667, 0.8, 0.8)
    assert (found.mean_difference, found.count) == (22.5, 4)
    # Ties: of six pairs one is tied on the left; tau-b is 5 / sqrt(5 * 6).
    assert judged([1, 1, 2, 3], [1, 2, 3, 4]).kendall == round(5 / 30**0.5, 4)


def test_bands_begin_at_their_lower_ends():
    scores = np.array([0, 19.9999, 20, 39, 40, 59, 60, 79.5, 80, 100])
    assert bands(scores).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_kappa_is_the_one_worked_out_by_hand():
    # Two bands; 45 times both low, 15 low-high, 25 high-low, 15 both high (a textbook table of 100):
    # agreement 0.60; chance 0.6 * 0.7 + 0.4 * 0.3 = 0.54; kappa = 0.06 / 0.46.
    table = [(0, 0)] * 45 + [(0, 1)] * 15 + [(1, 0)] * 25 + [(1, 1)] * 15
    a, b = (np.array(side) for side in zip(*table, strict=True))
    assert kappa(a, b) == pytest.approx(0.06 / 0.46)
    assert kappa(a, b, weighted=True) == pytest.approx(0.06 / 0.46)  # with two neighbouring bands there is no farther


def test_weighted_kappa_counts_a_far_miss_more():
    # Of four: two agree, one misses by 1, one by 4. Observed weight (0+0+1+16)/4. Chance: every first with every
    # second: firsts 0,2,1,4; seconds 0,2,2,0.
    a, b = np.array([0, 2, 1, 4]), np.array([0, 2, 2, 0])
    chance = sum((x - y) ** 2 for x in a for y in b) / 16
    assert kappa(a, b, weighted=True) == pytest.approx(1 - (17 / 4) / chance)
    # Plain: agreement 2/4; chance: band 0: 1/4 * 2/4, band 2: 1/4 * 2/4, so 1/4.
    assert kappa(a, b) == pytest.approx((0.5 - 0.25) / 0.75)


def test_what_is_not_defined_is_none_and_not_zero():
    constant = judged([50, 50, 50], [10, 20, 30])
    assert (constant.pearson, constant.spearman, constant.kendall) == (None, None, None)
    assert constant.mean_difference == 30
    same = judged([50, 50], [50, 50])
    assert (same.kappa, same.kappa_weighted, same.mean_difference) == (None, None, 0)  # chance agrees fully
    assert judged([], []) == Agreement(first="one", second="other", count=0)
    assert judged([1.0], [2.0]).pearson is None


def test_a_lenient_judge_ranks_alike_and_still_disagrees():
    strict = [0, 10, 20, 30, 40, 50, 60]
    found = judged([one + 40 for one in strict], strict)
    assert (found.spearman, found.mean_difference) == (1, 40)
    assert found.kappa < 0.1


def test_judges_are_compared_on_what_both_scored_by_record_and_system():
    one = {("base", "x"): 10.0, ("base", "y"): None, ("sft", "x"): 30.0, ("sft", "y"): 60.0}
    other = {("sft", "y"): 50.0, ("sft", "x"): None, ("base", "x"): 5.0}
    third = {("base", "y"): 1.0}
    found = {
        (two.first, two.second, two.system): two for two in agree_all({"one": one, "other": other, "third": third})
    }
    pairs = [("one", "other"), ("one", "third"), ("other", "third")]
    assert list(found) == [(*pair, system) for pair in pairs for system in ("base", "sft")]
    counts = [(found["one", "other", of].count, found["one", "other", of].mean_difference) for of in ("base", "sft")]
    assert counts == [(1, 5.0), (1, 10.0)]
    assert found["one", "third", "base"] == Agreement(first="one", second="third", system="base", count=0)


def keyed(**scores):
    return {(system, f"r{i}"): score for system, some in scores.items() for i, score in enumerate(some)}


def test_people_who_see_the_same_winners_agree_fully_with_a_judge_of_pairs():
    pairs = keyed(sft=[100.0, 75.0, 50.0, 0.0], dpo=[0.0, 25.0, 50.0, 100.0])
    people = keyed(base=[90.0] * 4, sft=[60.0, 25.0, 40.0, 10.0], dpo=[40.0, 20.0, 40.0, 30.0])
    both = {"pairs": pairs, "human": people}
    for scores in (both, dict(reversed(both.items()))):
        (found,) = agree_all(scores, {"pairs"})
        first, second = scores
        assert (found.first, found.second, found.system, found.count) == (first, second, "dpo", 4)
        assert (found.kappa, found.kappa_weighted, found.spearman, found.mean_difference) == (1, 1, 1, 0)


def test_kappa_with_a_judge_of_pairs_is_that_of_wins_ties_and_losses():
    # Of ten: five wins seen by both, two losses by both, one tie against a win, two wins against losses. 7/10 agree;
    # chance: 7/10 * 6/10 wins, 1/10 * 0 ties, 2/10 * 4/10 losses.
    judge = [100.0] * 7 + [50.0] + [0.0] * 2
    pairs = keyed(base=[100 - one for one in judge], sft=judge)
    people = keyed(base=[30.0] * 10, sft=[31.0, 40.0, 50.0, 60.0, 90.0, 10.0, 20.0, 70.0, 5.0, 0.0])
    (found,) = agree_all({"pairs": pairs, "human": people}, {"pairs"})
    assert found.kappa == pytest.approx((0.7 - 0.5) / 0.5)
    assert found.mean_difference == pytest.approx(75 - 60)


def test_who_won_is_not_known_where_one_of_the_two_has_no_score():
    scores = keyed(base=[1.0, None, 3.0], sft=[2.0, 2.0])
    assert wins(scores, "sft", "base") == {("sft", "r0"): 100.0, ("sft", "r1"): None}
    assert wins(scores, "base", "sft")["base", "r2"] is None


def test_judges_that_know_only_which_system_is_better_do_not_agree():
    """Over both systems' answers these two correlate at 0.7 and more, though of no answer they know anything."""
    rng = np.random.default_rng(1)
    keys = [(system, f"r{i}") for system in ("base", "sft") for i in range(400)]
    judges = [dict(zip(keys, np.repeat([30.0, 70.0], 400) + rng.normal(0, 12, 800), strict=True)) for _ in "ab"]
    assert np.corrcoef(*(list(one.values()) for one in judges))[0, 1] > 0.7
    for found in agree_all({"one": judges[0], "other": judges[1]}):
        assert abs(found.pearson) < 0.15 and abs(found.spearman) < 0.15 and abs(found.kendall) < 0.15
