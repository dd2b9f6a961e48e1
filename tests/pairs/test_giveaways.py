"""The plain baselines: equal to scikit-learn's, blind where there is nothing, and never scored on what they saw."""

from pathlib import Path

import numpy as np
import pytest

from instruct.core.pairs import Pair
from instruct.pairs.giveaways import fit_logistic, fold_of, longer_chosen, word_differences, words_accuracy
from instruct.pairs.reading import read_file

BOOK = Path(__file__).parents[2] / "../shared/data/seed/instruction-data-with-preference.json"
WORDS = ["red", "green", "blue", "cyan", "pink", "gold", "grey", "teal", "lime", "navy"]


def pairs(count, chosen, rejected):
    rng = np.random.default_rng(7)
    noise = [" ".join(rng.choice(WORDS, 4)) for _ in range(2 * count)]
    return [
        Pair(
            id=str(i),
            instruction=f"Prompt {i}",
            input="",
            output=f"{noise[2 * i]}{chosen}",
            rejected=f"{noise[2 * i + 1]}{rejected}",
        )
        for i in range(count)
    ]


def test_weights_equal_those_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = word_differences(pairs(60, " please", ""))
    mirrored = np.vstack([features.toarray(), -features.toarray()])
    labels = np.repeat([1, 0], features.shape[0])
    # Every row twice, once on each side: half the weight of the prior.
    model = linear_model.LogisticRegression(fit_intercept=False, C=0.5, tol=1e-10, max_iter=10_000)
    expected = model.fit(mirrored, labels).coef_[0]
    assert fit_logistic(features) == pytest.approx(expected, abs=1e-4)


def test_a_giveaway_word_is_found_and_noise_is_not():
    assert words_accuracy(pairs(100, " kindly", ""), 123) == 100.0
    assert 30 < words_accuracy(pairs(200, "", ""), 123) < 70


def test_a_fold_holds_whole_prompts():
    twice = pairs(30, " a", "") + pairs(30, " b", "")
    folds = fold_of(twice, 123)
    assert (folds[:30] == folds[30:]).all()
    assert len(set(folds.tolist())) == 5


def test_one_prompt_alone_has_no_cross_validation():
    assert words_accuracy(pairs(1, " a", ""), 123) is None


def test_length_bias_counts_equal_lengths_half():
    def made(chosen, rejected):
        return Pair(id="1", instruction="a", input="", output=chosen, rejected=rejected)

    assert longer_chosen([made("ab", "a"), made("ab", "ba"), made("a", "abc"), made("abc", "a")]) == 62.5


def test_words_tell_most_of_the_books_pairs_and_length_does_not():
    if not BOOK.is_file():
        pytest.skip(f"{BOOK} is not here")
    found, invalid, others = read_file(BOOK, drop=False)
    assert (len(found), invalid, others) == (1100, 0, {"output": 1100})
    assert words_accuracy(found, 123) > 65
    assert 40 < longer_chosen(found) < 60
