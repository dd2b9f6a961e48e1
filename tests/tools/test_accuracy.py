"""Right answers are counted over closed questions alone, and compared as all scores are."""

import json

import pytest
from results.sample import answer

from instruct.core.errors import DataError
from instruct.statistics import paired_test
from instruct.tools.accuracy import accuracy_lines, read_checks

CHECKS = {"type": "accept", "accept": ["Lima"]}


def checks_in(folder, values):
    (folder / "checks.json").write_text(json.dumps(values))
    return read_checks(folder / "checks.json")


def test_shares_are_of_closed_questions_and_the_difference_is_the_paired_test(tmp_path):
    names = [f"r{i}" for i in range(40)]
    checks = checks_in(tmp_path, {**dict.fromkeys(names, CHECKS), "open": {"type": "open"}})
    said = {"base": 5, "sft": 25}  # so many of the first records are answered right
    answers = {
        name: [answer(id_, "Lima" if i < count else "Quito") for i, id_ in enumerate(names)] + [answer("open", "Lima")]
        for name, count in said.items()
    }
    base, sft, difference, left_out = accuracy_lines(answers, checks)
    assert base.startswith("base: 5 of 40 right, 12.5 %") and sft.startswith("sft: 25 of 40 right, 62.5 %")
    zeros = [0.0] * 40
    expected = paired_test(zeros, [100.0 if 5 <= i < 25 else 0.0 for i in range(40)], resamples=10_000, seed=123)
    assert difference.startswith("sft - base: +50.0") and difference.endswith(f"p = {expected.p_value:.4f}")
    assert left_out.startswith("1 of 41 records")


@pytest.mark.parametrize(("values", "place"), [([], "checks.json"), ({"r0": {"type": "x"}}, "r0")])
def test_damaged_checks_are_named_by_place(tmp_path, values, place):
    with pytest.raises(DataError, match=place):
        checks_in(tmp_path, values)


def test_without_a_closed_question_nothing_is_counted(tmp_path):
    with pytest.raises(DataError, match="closed"):
        list(accuracy_lines({"base": [answer("r0", "Lima")]}, checks_in(tmp_path, {})))
