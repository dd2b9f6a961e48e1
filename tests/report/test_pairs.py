import pytest
from results.sample import answer

from instruct.core.errors import DataError
from instruct.report.pairs import (
    BANDS,
    count_bands,
    count_endings,
    form_without_truth,
    most_changed,
    pair_answers,
    worst,
)
from instruct.results.table import Table


def pairs_of(*scores):
    ids = [f"r{i}" for i in range(len(scores))]
    answers = {system: [answer(id_, f"{system} {id_}") for id_ in ids] for system in ("base", "sft")}
    by_system = {
        system: {id_: pair[place] for id_, pair in zip(ids, scores, strict=True)}
        for place, system in enumerate(answers)
    }
    return paired({"base": answers["base"], "sft": answers["sft"][::-1]}, by_system)


def paired(answers, scores, right=None):
    """Answers with scores of the judge `x`, which are the similarities too."""
    names = {"x": scores, "similarity": scores, **({"accuracy": right} if right else {})}
    return pair_answers(answers, Table(kinds={}, groups={}, scores=names), "x", "base")


def ids(pairs):
    return [pair.record.id for pair in pairs]


def test_answers_are_paired_by_id_in_the_order_of_the_test_set():
    pairs = pairs_of((1, 2), (3, None), (None, 6))
    assert ids(pairs) == ["r0", "r1", "r2"]
    assert [list(pair.scores.values()) for pair in pairs] == [[1, 2], [3, None], [None, 6]]
    assert [one.response for one in pairs[1].answers.values()] == ["base r1", "sft r1"]


@pytest.mark.parametrize("missing", ["answer", "score"])
def test_files_of_different_runs_are_refused(missing):
    both = [answer("r0", "a"), answer("r1", "b")]
    answers = {"base": both, "sft": both[:1] if missing == "answer" else both}
    scores = {system: {"r0": 1.0, "r1": 1.0} for system in answers}
    if missing == "score":
        del scores["sft"]["r1"]
    with pytest.raises(DataError, match="r1"):
        paired(answers, scores)


def test_form_without_truth_is_wrong_answers_of_the_primary_system_by_similarity():
    scores = [60, 90, 90, 40, 70]
    right = [0.0, 100.0, None, 0.0, 0.0]
    answers = [answer(f"r{i}", "x") for i in range(5)]
    by_id = [{f"r{i}": one for i, one in enumerate(values)} for values in (scores, right)]
    pairs = paired(*({"base": one, "sft": one} for one in (answers, *by_id)))
    assert ids(form_without_truth(pairs, 9)) == ["r4", "r0"]
    assert ids(form_without_truth(pairs, 1)) == ["r4"] and form_without_truth([], 9) == []


def test_the_worst_are_the_unscored_then_the_lowest_in_stable_order():
    pairs = pairs_of((0, 50), (0, 10), (0, None), (0, 0), (0, 10), (0, None))
    assert ids(worst(pairs, 10)) == ["r2", "r5", "r3", "r1", "r4", "r0"]
    assert ids(worst(pairs, 2)) == ["r2", "r5"]
    assert worst(pairs, 0) == []


def test_improved_and_regressed_leave_out_ties_and_the_unscored():
    pairs = pairs_of((10, 90), (50, 50), (None, 100), (90, 20), (0, None), (40, 45), (45, 40))
    assert ids(most_changed(pairs, 10, better=True)) == ["r0", "r5"]
    assert ids(most_changed(pairs, 10, better=False)) == ["r3", "r6"]
    assert ids(most_changed(pairs, 1, better=True)) == ["r0"]


def test_every_scored_answer_is_in_exactly_one_band():
    scores = [0, 0.0, 9, 9.9999, 10, 49.5, 50, 89.9999, 90, 99.9999, 100, 100.0, None]
    counts = count_bands(pairs_of(*((score, None) for score in scores)))
    assert (BANDS[0], BANDS[9], BANDS[10], len(BANDS)) == ("0-9", "90-99", "100", 11)
    assert counts == {"base": [4, 1, 0, 0, 1, 1, 0, 0, 1, 2, 2], "sft": [0] * 11}


def test_endings_are_counted_the_most_frequent_first():
    reasons = ["length", "end_of_text", "repetition", "end_of_text"]
    answers = [answer(f"r{i}", "", stop_reason=reason) for i, reason in enumerate(reasons)]
    assert list(count_endings(answers).items()) == [("end_of_text", 2), ("length", 1), ("repetition", 1)]
