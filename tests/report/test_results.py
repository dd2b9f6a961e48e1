import pytest
from instruct.report.results import by_judge, main_judge, score_columns, scores_of, unscored_of

from instruct.core.errors import DataError

PART = {"scored": 1, "unscored": 1, "mean": 5.0, "chrf": 7.0, "exact_match": 0.0}
OLD = {"judge": {"judge": "ollama", "model": "m"}, "base": PART, "tuned": PART, "difference": {"count": 0}}
JUDGEMENTS = [
    {"id": "a", "system": "base", "judge": "x", "score": 1.0},
    {"id": "a", "system": "tuned", "judge": "x", "score": None, "problem": "no number", "raw_reply": "well"},
    {"id": "a", "system": "tuned", "judge": "y", "score": 9.0},
]


def test_a_result_of_one_judge_reads_like_one_of_several():
    results = by_judge(OLD)
    assert results["judges"]["ollama"]["identity"] == {"judge": "ollama", "model": "m"}
    assert results["judges"]["ollama"]["tuned"]["mean"] == 5.0
    assert results["reference"]["tuned"] == {"chrf": 7.0, "exact_match": 0.0}
    assert results["test"] == {"records": 2}
    assert by_judge(results) == results


@pytest.mark.parametrize("value", [{}, {"judges": {}}, {"judge": "ollama"}, {"bleu": 3.0}])
def test_what_is_no_result_is_refused(value):
    with pytest.raises(DataError, match=r"metrics/evaluate\.json: is no result of the stage evaluate; run"):
        by_judge(value)


def test_the_main_judge_is_the_reference_and_without_it_the_first_by_name():
    assert main_judge({"judges": {"zeta": {}, "reference": {}, "alpha": {}}}) == "reference"
    assert main_judge({"judges": {"zeta": {}, "alpha": {}}}) == "alpha"


def test_scores_come_from_the_table_and_an_empty_field_is_no_score():
    rows = [{"id": "a", "x.base": "1.5", "x.tuned": ""}, {"id": "b", "x.base": "2", "x.tuned": "100"}]
    expected = {("base", "a"): 1.5, ("tuned", "a"): None, ("base", "b"): 2.0, ("tuned", "b"): 100.0}
    assert scores_of("x", rows, []) == expected
    assert score_columns(["similarity.base", "similarity.tuned"], "reference") == (
        "similarity.base",
        "similarity.tuned",
    )
    assert score_columns(["similarity.base", "similarity.tuned"], "x") is None


def test_without_the_table_scores_come_from_the_judgements_of_that_judge():
    assert scores_of("x", [], JUDGEMENTS) == {("base", "a"): 1.0, ("tuned", "a"): None}
    assert scores_of("y", [], JUDGEMENTS) == {("tuned", "a"): 9.0}


def test_every_answer_without_a_score_is_listed_with_reply_and_cause():
    assert unscored_of(JUDGEMENTS, "x") == [
        {"id": "a", "system": "tuned", "judge": "x", "cause": "no number", "reply": "well"}
    ]
    (row,) = unscored_of([{"id": "a", "system": "base", "score": None}], "x")
    assert (row["judge"], row["cause"], row["reply"]) == ("x", "no cause was recorded", "")
