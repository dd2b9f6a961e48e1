from types import SimpleNamespace

import pytest

from instruct.report.gather import name_score
from instruct.results.headline import describe_difference, form_lines
from instruct.results.scores import Difference


def difference(mean=5.0, low=1.0, high=9.0, p_value=0.01, **changes):
    numbers = {"mean": mean, "low": low, "high": high, "p_value": p_value, "worst_case": mean, "best_case": mean}
    counts = {"count": 40, "wins": 25, "ties": 5, "losses": 10}
    return Difference(**{"system": "sft", "against": "base", **numbers, **counts, **changes})


@pytest.mark.parametrize(
    ("mean", "p_value", "words"),
    [
        (5.0, 0.01, "SFT model is better than base model: +5.0 points"),
        (5.0, 0.05, "SFT model is better than base model: +5.0 points"),
        (5.0, 0.051, "SFT model and base model are not distinguishable: +5.0 points"),
        (0.0, 1.0, "SFT model and base model are not distinguishable: +0.0 points"),
        (-5.0, 0.3, "SFT model and base model are not distinguishable: -5.0 points"),
        (-5.0, 0.0001, "SFT model is worse than base model: -5.0 points"),
    ],
)
def test_the_verdict_says_better_worse_or_not_distinguishable(mean, p_value, words):
    assert describe_difference(difference(mean=mean, p_value=p_value)).startswith(words)


def test_the_verdict_gives_interval_p_and_all_counts():
    sentence = describe_difference(difference(mean=12.34, low=-0.5, high=25.06, p_value=0.0001))
    assert "95 % interval -0.5 to +25.1" in sentence
    assert "p = 0.0001" in sentence
    assert "over 40 records: 25 won, 5 tied, 10 lost." in sentence


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (2, "over 40 records in 2 groups of near-duplicates: 25 won"),
        (1, "over 40 records in 1 group of near-duplicates: 25 won"),
        (40, "over 40 records: 25 won"),
        (None, "over 40 records: 25 won"),
    ],
)
def test_the_verdict_names_the_groups_where_they_are_fewer_than_the_records(groups, words):
    assert words in describe_difference(difference(), groups=groups)


def test_without_pairs_nothing_is_claimed():
    assert (
        describe_difference(Difference(system="sft", against="base", count=0))
        == "No record has a score for both systems, so nothing can be said."
    )


def test_similarity_is_never_called_a_judges_opinion():
    name = name_score({"judge": "reference", "score": "similarity to the reference answer"})
    assert name == "similarity to the reference answer"
    assert "judge" not in name


def test_a_judge_is_named_with_its_model():
    assert name_score({"judge": "ollama", "model": "llama3:8b"}) == "judged by llama3:8b through ollama"


def test_a_judge_without_identity_is_still_called_a_judge():
    assert name_score({}) == "judged by a judge that left no name"


def test_a_system_without_words_of_its_own_goes_by_its_name():
    sentence = describe_difference(difference(system="dpo-2"))
    assert sentence.startswith("dpo-2 is better than base model")


@pytest.mark.parametrize(
    ("right", "form"),
    [
        ({"mean": -0.3, "low": -4.1, "high": 3.6, "p_value": 0.93}, False),
        ({"mean": 0.3, "low": -3.6, "high": 4.1, "p_value": 0.93}, False),
        ({"mean": 0.0, "low": -4.0, "high": 4.0, "p_value": 1.0}, False),
        ({"mean": -9.0, "low": -14.0, "high": -4.0, "p_value": 0.001}, True),
        ({"mean": -9.0, "low": -14.0, "high": -4.0, "p_value": 0.001, "best_case": 2.0}, False),
        ({"mean": 0.0, "low": -4.0, "high": 4.0, "p_value": 1.0, "wins": 0, "losses": 0, "ties": 40}, True),
    ],
    ids=["a little worse", "a little better", "as many", "fewer", "perhaps fewer", "no answer became right"],
)
def test_form_without_truth_is_claimed_only_if_right_answers_fall_or_none_is_gained(right, form):
    found = {"accuracy": difference(**right), "closed_similarity": difference()}
    measured = [SimpleNamespace(name=name, difference_of=lambda _, one=one: one) for name, one in found.items()]
    (line,) = form_lines(SimpleNamespace(primary="sft", measured=measured))
    assert ("form, not truth" in line, "is not shown" in line) == (form, not form)
