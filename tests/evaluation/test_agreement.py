"""Agreement against scipy, and kappa against tables worked out by hand."""

import random

import numpy as np
import pytest
from scipy import stats

from instruct.evaluation.agreement import agree, agree_all, bands, kappa

RNG = random.Random(5)
# 40 pairs with many ties, as judges give them.
FIRST = [RNG.choice([0, 25, 50, 75, 85, 100]) for _ in range(40)]
SECOND = [min(100, max(0, one + RNG.choice([-50, -25, 0, 0, 10]))) for one in FIRST]


@pytest.mark.parametrize(
    ("first", "second"),
    [(FIRST, SECOND), (FIRST, FIRST), (FIRST, [100 - one for one in FIRST]), ([1, 2, 3], [1, 3, 2]), ([0, 1], [5, 2])],
)
def test_correlations_are_scipys(first, second):
    found = agree(first, second)
    assert found.pearson == pytest.approx(stats.pearsonr(first, second).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(first, second).statistic)
    assert found.mean_difference == pytest.approx(np.mean(np.subtract(first, second)))
    assert found.count == len(first)


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


def test_what_is_not_defined_is_absent_and_not_zero():
    constant = agree([50, 50, 50], [10, 20, 30])
    assert (constant.pearson, constant.spearman, constant.kendall) == (None, None, None)
    assert constant.mean_difference == pytest.approx(30)
    assert set(agree([50, 50], [50, 50]).metrics()) == {"count", "mean_difference"}  # kappa: chance agrees fully
    assert agree([], []).metrics() == {"count": 0}
    assert set(agree([1.0], [2.0]).metrics()) == {"count", "mean_difference"}


def test_a_lenient_judge_ranks_alike_and_still_disagrees():
    strict = [0, 10, 20, 30, 40, 50, 60]
    found = agree([one + 40 for one in strict], strict)
    assert found.spearman == pytest.approx(1)
    assert found.mean_difference == pytest.approx(40)
    assert found.kappa < 0.1


def test_judges_are_compared_on_what_both_scored_and_by_record():
    one = {("base", "x"): 10.0, ("base", "y"): None, ("tuned", "x"): 30.0, ("tuned", "y"): 60.0}
    other = {("tuned", "y"): 50.0, ("tuned", "x"): None, ("base", "x"): 5.0}
    third = {("base", "y"): 1.0}
    found = agree_all({"one": one, "other": other, "third": third})
    assert list(found) == ["one ~ other", "one ~ third", "other ~ third"]
    assert found["one ~ other"]["count"] == 2
    assert found["one ~ other"]["mean_difference"] == pytest.approx((5 + 10) / 2)
    assert found["one ~ third"] == {"first": "one", "second": "third", "count": 0}
