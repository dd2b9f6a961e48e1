import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from instruct.statistics import mean_interval, paired_test

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


def test_the_interval_is_scipys_percentile_bootstrap():
    ours = mean_interval(SCORES, resamples=40_000, seed=1)
    theirs = bootstrap(
        (SCORES,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(2), vectorized=True
    ).confidence_interval
    assert ours.mean == pytest.approx(np.mean(SCORES))
    # An end of such an interval has a standard error of 0.12 with 40,000 resamples.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.5)


def test_the_interval_of_two_values_is_known_by_hand():
    # Means of two draws from {0, 100}: 0, 50, 50, 100, each a quarter; the 2.5 % points are the ends.
    interval = mean_interval([0.0, 100.0], resamples=2000, seed=1)
    assert (interval.mean, interval.low, interval.high) == (50, 0, 100)


def test_the_interval_holds_the_true_mean_about_95_times_of_100():
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(300):
        scores = np.clip(rng.normal(60, 20, 60), 0, 100)
        interval = mean_interval(scores.tolist(), resamples=400, seed=seed)
        # The mean of a normal distribution clipped to 0..100, by 20 million draws.
        hits += interval.low <= 59.84 <= interval.high
    assert 0.90 <= hits / 300 <= 0.985


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
@settings(max_examples=30, deadline=None)
def test_identical_systems_are_never_distinguished(scores, seed):
    paired = paired_test(scores, scores, resamples=200, seed=seed)
    assert paired.p_value == 1
    assert (paired.difference.mean, paired.difference.low, paired.difference.high) == (0, 0, 0)
    assert (paired.wins, paired.ties, paired.losses) == (0, len(scores), 0)


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


def test_a_constant_gain_has_no_width_and_the_smallest_p_value():
    a = [float(i) for i in range(40)]
    paired = paired_test(a, [one + 2 for one in a], resamples=999, seed=1)
    assert (paired.difference.mean, paired.difference.low, paired.difference.high) == (2, 2, 2)
    # 2 in 2**40 flips are as far: none among 999, so (1 + 0) / (1 + 999), and never 0.
    assert paired.p_value == 1 / 1000


def test_one_item_distinguishes_nothing():
    paired = paired_test([0.0], [100.0], resamples=500, seed=1)
    assert paired.p_value == 1
    assert (paired.difference.mean, paired.difference.low, paired.difference.high) == (100, 100, 100)


@pytest.mark.parametrize("score", [0.0, 37.1, 100.0])
def test_constant_scores_have_an_interval_without_width(score):
    interval = mean_interval([score] * 25, resamples=500, seed=1)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((score, score, score))
    assert 0 <= interval.low <= interval.high <= 100


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    first = mean_interval(SCORES, resamples=2500, seed=5)
    assert mean_interval(SCORES, resamples=2500, seed=5) == first
    assert mean_interval(SCORES, resamples=2500, seed=6) != first
    np.random.seed(1)
    assert mean_interval(SCORES, resamples=2500, seed=5) == first
    other = SCORES[::-1]
    assert paired_test(SCORES, other, resamples=2500, seed=5) == paired_test(SCORES, other, resamples=2500, seed=5)
