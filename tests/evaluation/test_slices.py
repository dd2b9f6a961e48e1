from statistics import mean

import pytest
from evaluation.answers import answer, evaluate_params

from instruct.evaluation.slices import extremes, length_of, slice_scores

RECORDS = [
    {"kind": "sums", "input": "2", "output": "5"},
    {"kind": "sums", "input": "", "output": "one two three four five six"},
    {"kind": "words", "input": "x", "output": "word " * 21},
    {"kind": "", "input": "", "output": "word " * 51},
]
ANSWERS = {
    "base": [
        answer(f"r{i}", "b", stop_reason="length" if i else "end_of_text", **one) for i, one in enumerate(RECORDS)
    ],
    "tuned": [answer(f"r{i}", "t", **one) for i, one in enumerate(RECORDS)],
}
SCORES = {
    "base": {"r0": 10.0, "r1": 20.0, "r2": None, "r3": 40.0},
    "tuned": {"r0": 30.0, "r1": None, "r2": 50.0, "r3": 5.0},
}


def rows_of(name):
    rows = slice_scores(ANSWERS, SCORES, evaluate_params())
    return {
        row["value"]: {key: value for key, value in row.items() if key not in ("slice", "value")}
        for row in rows
        if row["slice"] == name
    }


def test_kinds_have_their_means_and_denominators():
    assert rows_of("kind") == {
        "sums": {
            "records": 2,
            "base_scored": 2,
            "base": 15,
            "tuned_scored": 1,
            "tuned": 30,
            "count": 1,
            "difference": 20,
        },
        "words": {"records": 1, "base_scored": 0, "tuned_scored": 1, "tuned": 50},
        "(none)": {
            "records": 1,
            "base_scored": 1,
            "base": 40,
            "tuned_scored": 1,
            "tuned": 5,
            "count": 1,
            "difference": -35,
        },
    }


def test_lengths_are_of_the_reference_and_in_order():
    assert list(rows_of("length")) == ["1-5 words", "6-20 words", "21-50 words", "over 50 words"]
    assert length_of(answer("x", "", output="a b c d e")) == "1-5 words"
    assert length_of(answer("x", "", output="a b c d e f")) == "6-20 words"


def test_with_and_without_input():
    found = rows_of("input")
    assert (found["with input"]["base"], found["with input"]["tuned"]) == (10, 40)
    assert (found["without input"]["base"], found["without input"]["difference"]) == (30, -35)


def test_stop_reasons_are_each_systems_own():
    found = rows_of("stop_reason")
    assert found["length"] == {"base_records": 3, "base_scored": 2, "base": 30, "tuned_records": 0, "tuned_scored": 0}
    assert found["end_of_text"]["tuned"] == pytest.approx(mean([30, 50, 5]), abs=1e-4)


def test_every_record_is_in_one_slice_of_each_property():
    for name in ("kind", "length", "input"):
        assert sum(row["records"] for row in rows_of(name).values()) == len(RECORDS)


def test_an_interval_is_given_for_enough_pairs_only():
    answers = {system: [answer(f"r{i}", "x") for i in range(8)] for system in ("base", "tuned")}
    scores = {"base": {f"r{i}": 0.0 for i in range(8)}, "tuned": {f"r{i}": float(i) for i in range(8)}}
    (row,) = [row for row in slice_scores(answers, scores, evaluate_params()) if row["slice"] == "kind"]
    assert row["low"] < row["difference"] == 3.5 < row["high"]
    scores["tuned"]["r0"] = None
    (row,) = [row for row in slice_scores(answers, scores, evaluate_params()) if row["slice"] == "kind"]
    assert "low" not in row and row["count"] == 7


def test_worst_improved_and_regressed_answers_are_named():
    scores = {
        "base": {"a": 50.0, "b": 50.0, "c": 50.0, "d": 50.0, "e": None, "f": 0.0},
        "tuned": {"a": 10.0, "b": 90.0, "c": 50.0, "d": 60.0, "e": 0.0, "f": None},
    }
    found = extremes(scores, 2)
    assert [row["id"] for row in found["worst"]] == ["e", "a"]
    assert found["worst"][0] == {"id": "e", "tuned": 0.0}
    assert [(row["id"], row["difference"]) for row in found["improved"]] == [("b", 40), ("d", 10)]
    assert [(row["id"], row["difference"]) for row in found["regressed"]] == [("a", -40)]
