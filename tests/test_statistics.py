from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import beta, binomtest, chi2, permutation_test, sem, ttest_1samp

from instruct.statistics import holm, mean_interval, paired_test, paired_tests, smallest_detectable, standard_error

SCORES = [0.0, 12.5, 100.0, 55.0, 31.25, 100.0, 78.0, 3.0, 64.5, 88.0, 41.0, 9.0, 100.0, 27.0, 70.0]


def exact_p_value(a: list[float], b: list[float]) -> float:
    differences = np.subtract(b, a)
    test = permutation_test(
        (differences, np.zeros(len(a))),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    return float(test.pvalue)


def test_the_interval_holds_exactly_the_means_that_scipys_test_of_all_flips_does_not_reject():
    few = SCORES[:9]  # 256 flips: all of them are counted
    interval = mean_interval(few, resamples=1000, seed=1)
    zeros = [0.0] * len(few)
    for end, inwards in ((interval.low, 0.01), (interval.high, -0.01)):
        assert exact_p_value([end + inwards] * len(few), few) > 0.05
        assert exact_p_value([end - inwards] * len(few), few) <= 0.05
    assert exact_p_value(zeros, few) <= 0.05 and interval.low > 0


def test_random_flips_come_to_the_interval_of_all_flips():
    exact = mean_interval(SCORES, resamples=2**14, seed=1)
    assert mean_interval(SCORES, resamples=2**14, seed=2) == exact  # 15 scores: no more flips than resamples, no chance
    drawn = mean_interval(SCORES, resamples=2**14 - 1, seed=1)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.7)
    assert drawn != exact


def test_on_many_scores_the_interval_is_students():
    scores = np.random.default_rng(5).normal(50, 10, 2000)
    theirs = ttest_1samp(scores, 0).confidence_interval(0.95)
    ours = mean_interval(scores.tolist(), resamples=20_000, seed=1)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_scores_say_nothing_about_the_mean(count):
    # With five scores even all flips alike are 2 of 32: no test at 5 % can reject any mean.
    scores = [90.0, 92.0, 95.0, 91.0, 94.0][:count]
    interval = mean_interval(scores, resamples=1000, seed=1)
    assert (interval.low, interval.high) == (0, 100)
    assert interval.mean == pytest.approx(np.mean(scores))


def test_a_groups_sign_is_one_sign():
    # Six items in two groups: 2 of 4 flips are as far as what was seen, however clear it looks.
    groups = ["a", "a", "a", "b", "b", "b"]
    assert paired_test([0.0] * 6, [9.0] * 6, resamples=1000, seed=1).p_value == 2 / 64
    grouped = paired_test([0.0] * 6, [9.0] * 6, resamples=1000, seed=1, groups=groups)
    assert grouped.p_value == 0.5
    assert (grouped.difference.mean, grouped.difference.low, grouped.difference.high) == (9, -100, 100)


@pytest.mark.parametrize("sizes", [[1] * 12, [3] * 12, [1, 1, 2, 1, 5, 1, 1, 3, 1, 2, 1, 4]])
def test_the_test_of_groups_is_scipys_test_of_their_sums(sizes):
    rng = np.random.default_rng(len(sizes) + sum(sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    b = rng.normal(6, 20, len(groups))
    sums = np.bincount(groups, b).tolist()
    ours = paired_test([0.0] * len(b), b.tolist(), resamples=5000, seed=1, groups=[f"g{g}" for g in groups])
    assert ours.p_value == pytest.approx(exact_p_value([0.0] * len(sums), sums))
    assert (ours.p_value <= 0.05) == (not ours.difference.low <= 0 <= ours.difference.high)


@given(st.lists(st.sampled_from([-40.0, -0.3, 0.0, 0.1, 0.2, 55.5]), min_size=1, max_size=40))
@settings(max_examples=60)
def test_the_interval_holds_0_exactly_where_the_test_does_not_reject(differences):
    paired = paired_test([0.0] * len(differences), differences, resamples=300, seed=1)
    low, high = paired.difference.low, paired.difference.high
    assert (low <= 1e-9 and high >= -1e-9) == (paired.p_value > 0.05)
    assert low <= paired.difference.mean <= high


@pytest.mark.parametrize("resamples", [100, 1000])
@pytest.mark.parametrize("differing", range(1, 6))
def test_drawn_flips_of_few_that_differ_come_to_no_less_than_all_flips(differing, resamples):
    """All flips of the others change nothing, so what counts is those few: p is 2 of all their signs."""
    for seed in range(60):
        places = np.random.default_rng(seed).choice(60, differing, replace=False)
        after = np.isin(np.arange(60), places) * 100.0
        found = paired_test([0.0] * 60, after, resamples=resamples, seed=seed)
        assert found.p_value >= 2 ** (1 - differing)
        assert (found.p_value > 0.05) == (found.difference.low <= 0 <= found.difference.high)


def test_groups_of_one_change_nothing_and_the_order_of_items_hardly():
    names = [f"item {i}" for i in range(len(SCORES))]
    other = SCORES[3:] + SCORES[:3]
    alone = paired_test(SCORES, other, resamples=2**15, seed=1)
    assert paired_test(SCORES, other, resamples=2**15, seed=1, groups=names).p_value == alone.p_value


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_is_that_of_all_sign_flips(seed):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 100, 9).round(1).tolist()
    b = (np.asarray(a) + rng.normal(seed * 6, 15, 9)).round(1).tolist()
    expected = exact_p_value(a, b)
    resamples = 20_000
    margin = 4 * (expected * (1 - expected) / resamples) ** 0.5 + 1 / resamples
    assert paired_test(a, b, resamples=resamples, seed=7).p_value == pytest.approx(expected, abs=margin)


def test_flips_that_tie_with_what_was_seen_count_as_extreme():
    # Differences 1, 1, 1: of eight flips the two with all signs alike are as far from 0.
    assert exact_p_value([0, 0, 0], [1, 1, 1]) == 0.25
    assert paired_test([0, 0, 0], [1, 1, 1], resamples=20_000, seed=1).p_value == pytest.approx(0.25, abs=0.02)
    # In tenths, which floating point does not hold exactly: no sum of 1, 1, 3 and 2 with signs is nearer to 0 than 1.
    paired = paired_test([0.0] * 4, [0.1, 0.1, -0.3, 0.2], resamples=2000, seed=1)
    assert paired.p_value == 1


def test_without_a_difference_the_test_errs_about_5_times_of_100():
    rng = np.random.default_rng(11)
    small = 0
    for seed in range(400):
        a, b = rng.normal(50, 20, (2, 20))
        small += paired_test(a.tolist(), b.tolist(), resamples=400, seed=seed).p_value <= 0.05
    assert 0.02 <= small / 400 <= 0.08


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=30)
def test_identical_systems_are_never_distinguished(scores, seed):
    paired = paired_test(scores, scores, resamples=200, seed=seed)
    assert paired.p_value == 1
    assert (paired.difference.mean, paired.difference.low) == (0, -paired.difference.high)
    assert (paired.wins, paired.ties, paired.losses) == (0, len(scores), 0)
    # None of n differs: how many of all might is Clopper's and Pearson's limit, each by 100 points.
    limit = 100 * binomtest(0, len(scores)).proportion_ci(0.95).high if len(scores) > 5 else 100
    assert limit <= paired.difference.high <= min(100, 1.35 * limit)


def test_exchanging_the_systems_changes_only_the_sign():
    other = SCORES[5:] + SCORES[:5]
    one, swapped = (paired_test(a, b, resamples=5000, seed=3) for a, b in ((SCORES, other), (other, SCORES)))
    assert one.p_value == swapped.p_value
    assert one.difference.mean == pytest.approx(-swapped.difference.mean)
    assert one.difference.low == pytest.approx(-swapped.difference.high, abs=1)
    assert (one.wins, one.losses, one.ties) == (swapped.losses, swapped.wins, swapped.ties)


def test_wins_ties_and_losses_are_of_the_second_system():
    paired = paired_test([10, 20, 30, 40], [11, 20, 29, 45], resamples=200, seed=1)
    assert (paired.wins, paired.ties, paired.losses) == (2, 1, 1)
    assert paired.difference.mean == pytest.approx(5 / 4)


def test_a_constant_gain_is_as_sure_as_records_that_were_not_seen_let_it_be():
    """Sign flips alone would give 2 to 2 and p = 1/1000, though 7 % of all records may lose whatever they can."""
    a = [float(i) for i in range(40)]
    paired = paired_test(a, [one + 2 for one in a], resamples=999, seed=1)
    limit = 100 * -np.log(0.025) / 40  # Poisson's upper limit for none of 40 seen, in points of the mean
    assert (paired.difference.low, paired.difference.high) == pytest.approx((2 - limit, 2 + limit))
    assert paired.p_value > 0.05
    clear = paired_test(a, [one + 20 for one in a], resamples=999, seed=1)
    assert clear.difference.low == pytest.approx(20 - limit)
    # 2 in 2**40 flips are as far: none among 999, so (1 + 0) / (1 + 999), and never 0.
    assert clear.p_value == pytest.approx(max(1 / 1000, 2 * np.exp(-20 * 40 / 100)))


@pytest.mark.parametrize("usual", [0.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_58_of_60_alike_give_an_interval_that_poissons_limit_explains(usual, noise):
    """The bootstrap-t alone gives -100: in 13 % of its resamples neither of the two is drawn and nothing varies."""
    b = np.random.default_rng(1).normal(usual, noise, 60)
    b[:2] = usual - 40
    paired = paired_test([0.0] * 60, b.tolist(), resamples=2000, seed=1)
    limit = 100 / 60 * (chi2.ppf(0.975, 2 * (2 + 1)) / 2 - 2)  # Garwood (1936), less the two that were seen
    mean = paired.difference.mean
    assert (paired.difference.low, paired.difference.high) == pytest.approx((mean - limit, mean + limit))
    assert paired.p_value > 0.05


def test_one_item_distinguishes_nothing():
    paired = paired_test([0.0], [40.0], resamples=500, seed=1)
    assert paired.p_value == 1
    assert (paired.difference.mean, paired.difference.low, paired.difference.high) == (40, -100, 100)


@pytest.mark.parametrize("score", [0.0, 37.1, 100.0])
@pytest.mark.parametrize("others", [0, 2])
def test_nearly_constant_scores_hold_what_a_few_others_would_make_of_the_mean(score, others):
    interval = mean_interval([score] * (60 - others) + [50.0] * others, resamples=500, seed=1)
    exact = binomtest(others, 60).proportion_ci(0.95).high
    limit = 100 * (beta(others + 0.5, 60.5 - others).ppf(0.975) - others / 60) if others else 100 * exact  # Jeffreys
    assert interval.low <= max(0, interval.mean - limit) + 1e-9 <= interval.mean + 2e-9
    assert interval.mean <= min(100, interval.mean + limit) <= interval.high + 1e-9
    assert interval.high - interval.low <= 2 * 1.2 * limit


@pytest.mark.parametrize("others", [0, 2])
def test_a_mean_of_nearly_constant_groups_allows_for_as_many_as_the_largest_leaves_room_for(others):
    sizes = [10] + [1] * 50  # an unseen group may be as large as that of ten: then 60 records are six such groups
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    scores = [40.0] * (60 - others) + [50.0] * others
    interval = mean_interval(scores, resamples=500, seed=1, groups=groups)
    seen = beta(others + 0.5, 6.5 - others).ppf(0.975) - others / 6  # Jeffreys
    limit = 100 * (seen if others else binomtest(0, 6).proportion_ci(0.95).high)
    assert interval.high == pytest.approx(min(100.0, interval.mean + limit))
    assert interval.low == pytest.approx(max(0.0, interval.mean - limit))


@pytest.mark.parametrize(("usual", "others"), [(0.0, 0), (0.0, 3), (8.0, 2), (40.0, 1)])
def test_unseen_groups_may_be_as_large_as_the_largest(usual, others):
    sizes = [12] + [1] * 44
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    gains = [usual] * (56 - others) + [usual + 5.0] * others
    paired = paired_test([20.0] * 56, [20.0 + gain for gain in gains], resamples=2000, seed=1, groups=groups)

    def reach(level):
        """Poisson's upper limit of groups that may differ, those beyond what was seen by 100 points each."""
        return (chi2.ppf(1 - level / 2, 2 * (others + 1)) / 2 - others) * 100 * 12 / 56

    mean = float(np.mean(gains))
    ends = max(-100.0, mean - reach(0.05)), min(100.0, mean + reach(0.05))
    assert (paired.difference.low, paired.difference.high) == pytest.approx(ends)
    if usual:  # of those that differ from 0 there are enough for flips to reject it
        least = brentq(lambda level: reach(level) - mean, 1e-12, 1) if reach(1.0) < mean else 1.0
        assert paired.p_value == pytest.approx(least)


def test_six_groups_that_differ_are_enough_for_the_interval_of_the_test():
    rare = [0.0] * 60 + [40.0] * 6
    paired = paired_test([0.0] * len(rare), rare, resamples=2**12, seed=1)
    assert paired.p_value <= 0.05 and paired.difference.low > 0
    fewer = paired_test([0.0] * 65, rare[:65], resamples=2**12, seed=1)
    assert fewer.p_value > 0.05 and fewer.difference.low < 0


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    scores = SCORES * 3
    first = mean_interval(scores, resamples=2500, seed=5)
    assert mean_interval(scores, resamples=2500, seed=5) == first
    assert mean_interval(scores, resamples=2500, seed=6) != first
    np.random.seed(1)
    assert mean_interval(scores, resamples=2500, seed=5) == first
    other = SCORES[::-1]
    assert paired_test(SCORES, other, resamples=2500, seed=5) == paired_test(SCORES, other, resamples=2500, seed=5)


def test_holm_is_the_closure_of_bonferroni():
    rng = np.random.default_rng(2)
    for count in (1, 2, 5, 6):
        p_values = np.concatenate([rng.uniform(0, 0.06, count - count // 2), rng.uniform(0, 1, count // 2)]).tolist()
        # A score is found only if every set of scores that holds it is, each at its size's share of the level.
        expected = [
            max(
                min(1.0, len(chosen) * min(p_values[j] for j in chosen))
                for size in range(1, count + 1)
                for chosen in combinations(range(count), size)
                if i in chosen
            )
            for i in range(count)
        ]
        assert holm(p_values) == pytest.approx(expected)
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand


def test_the_standard_error_is_scipys_and_with_groups_that_of_their_means():
    assert standard_error(SCORES) == pytest.approx((sem(SCORES), len(SCORES) - 1))
    groups = [str(i // 5) for i in range(15)]
    means = np.reshape(SCORES, (3, 5)).mean(axis=1)
    assert standard_error(SCORES, groups) == pytest.approx((sem(means), 2))
    assert standard_error([1.0, 5.0], ["a", "a"]) == (0, 0)
    unequal = standard_error([1.0, 2.0, 6.0, 4.0, 9.0], list("aaabc"))  # as 25 / 11 groups of one size (Kish, 1965)
    assert unequal[1] == pytest.approx(25 / 11 - 1)


@pytest.mark.parametrize(
    ("differences", "groups"),
    [
        ([3.0], None),
        ([5.0, -2.0, 9.0, 4.0, 1.0], None),
        (SCORES[:9], None),
        ([2.0] * 30, None),
        ([(score + 0.1) - score for score in np.linspace(5, 90, 30)], None),
        ([4.0, 9.0] * 20, ["a", "b"] * 20),
        ([100.0, -100.0] * 6, None),
    ],
    ids=["one item", "five items", "nine items", "nothing varies", "nor but for rounding", "two groups", "beyond 100"],
)
def test_where_nothing_could_be_found_no_smallest_difference_is_invented(differences, groups):
    assert smallest_detectable(differences, groups=groups) is None


def test_of_many_items_the_smallest_difference_is_the_textbooks():
    differences = np.random.default_rng(8).normal(0, 35.3, 20_000)
    # 2.8 standard errors (Cohen, 1988), here of 110 items for the book's judge: 9.4 points.
    scale = (20_000 / 110) ** 0.5
    assert smallest_detectable(differences.tolist()) * scale == pytest.approx(9.4, abs=0.2)
    strict = smallest_detectable(differences.tolist(), alpha=0.05 / 6)
    assert strict / smallest_detectable(differences.tolist()) == pytest.approx(
        (2.638 + 0.842) / (1.960 + 0.842), abs=0.01
    )


@pytest.mark.parametrize("count", [1, 6, 14, 200])
def test_pairs_that_share_their_flips_are_tested_as_each_alone(count):
    """With up to 14 groups all flips are counted, with more they are drawn."""
    rng = np.random.default_rng(count)
    pairs = []
    for records in (count, count, 2 * count, count + 1):
        differences = (rng.integers(-3, 5, records) * rng.integers(0, 2, records)).astype(float)
        pairs.append((differences, [f"g{i % count}" for i in range(records)]))
    together = paired_tests(pairs, resamples=10_000, seed=7)
    for (differences, groups), ours in zip(pairs, together, strict=True):
        alone = paired_test([0.0] * len(differences), differences.tolist(), resamples=10_000, seed=7, groups=groups)
        assert (ours.p_value, ours.wins, ours.ties, ours.losses) == (
            alone.p_value, alone.wins, alone.ties, alone.losses,
        )  # fmt: skip
        assert asdict(ours.difference) == pytest.approx(asdict(alone.difference))


def test_near_duplicates_make_the_smallest_difference_larger():
    differences = np.random.default_rng(3).normal(0, 20, 60)
    alone = smallest_detectable(differences.tolist())
    twins = smallest_detectable(np.repeat(differences, 4).tolist(), groups=[str(i // 4) for i in range(240)])
    assert twins == pytest.approx(alone)
    assert smallest_detectable(np.repeat(differences, 4).tolist()) < 0.6 * alone


def test_ties_that_a_difference_would_break_make_the_smallest_one_larger():
    moving = np.random.default_rng(3).normal(0, 20, 200)
    tied = np.concatenate([moving[:100], np.zeros(100)])
    ratio = smallest_detectable(tied.tolist()) / smallest_detectable(moving.tolist())
    assert ratio > 1.05 * standard_error(tied.tolist())[0] / standard_error(moving.tolist())[0]
