from statistics import mean

import pytest
from evaluation.answers import answer, evaluate_params

from instruct.evaluation.slices import length_of, slice_scores

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
    "sft": [answer(f"r{i}", "t", **one) for i, one in enumerate(RECORDS)],
}
SCORES = {
    "base": {"r0": 10.0, "r1": 20.0, "r2": None, "r3": 40.0},
    "sft": {"r0": 30.0, "r1": None, "r2": 50.0, "r3": 5.0},
}


def slices_of(name, answers=ANSWERS, scores=SCORES):
    return {
        one.value: one
        for one in slice_scores(answers, scores, evaluate_params(), against="base")
        if one.property == name
    }


def means_of(one):
    return {row.system: (row.records, row.scored, row.mean) for row in one.systems}


def test_kinds_have_their_means_and_denominators():
    found = slices_of("kind")
    assert set(found) == {"sums", "words", "(none)"}
    assert means_of(found["sums"]) == {"base": (2, 2, 15), "sft": (2, 1, 30)}
    assert means_of(found["words"]) == {"base": (1, 0, None), "sft": (1, 1, 50)}
    changes = {value: [(one.count, one.mean) for one in found[value].differences] for value in found}
    assert changes == {"sums": [(1, 20)], "words": [(0, None)], "(none)": [(1, -35)]}


def test_lengths_are_of_the_reference_and_in_order():
    assert list(slices_of("length")) == ["1-5 words", "6-20 words", "21-50 words", "over 50 words"]
    assert length_of(answer("x", "", output="a b c d e")) == "1-5 words"
    assert length_of(answer("x", "", output="a b c d e f")) == "6-20 words"


def test_the_length_of_a_text_without_blanks_is_not_one_word():
    lengths = [length_of(answer("x", "", output="床前明月光" * times)) for times in (2, 8, 20, 80)]
    assert lengths == ["1-5 words", "6-20 words", "21-50 words", "over 50 words"]


def test_with_and_without_input():
    found = slices_of("input")
    assert [row.mean for row in found["with input"].systems] == [10, 40]
    assert found["without input"].systems[0].mean == 30 and found["without input"].differences[0].mean == -35


def test_stop_reasons_are_each_systems_own():
    found = slices_of("stop_reason")
    assert means_of(found["length"]) == {"base": (3, 2, 30), "sft": (0, 0, None)}
    assert means_of(found["end_of_text"])["sft"][2] == pytest.approx(mean([30, 50, 5]), abs=1e-4)
    assert found["length"].differences == ()


def test_every_record_is_in_one_slice_of_each_property():
    for name in ("kind", "length", "input"):
        assert sum(one.systems[0].records for one in slices_of(name).values()) == len(RECORDS)


def test_an_interval_is_given_for_enough_pairs_only():
    answers = {system: [answer(f"r{i}", "x") for i in range(8)] for system in ("base", "sft")}
    scores = {"base": {f"r{i}": 0.0 for i in range(8)}, "sft": {f"r{i}": float(i) for i in range(8)}}
    (one,) = slices_of("kind", answers, scores)["facts"].differences
    assert one.low < one.mean == 3.5 < one.high
    scores["sft"]["r0"] = None
    (one,) = slices_of("kind", answers, scores)["facts"].differences
    assert (one.low, one.high, one.count) == (None, None, 7)


def change_of(gains, copies=1):
    """The change in a slice of records that gained so much, each with so many near-duplicates."""
    names = [(f"r{i}", f"r{i}.{copy}") for i in range(len(gains)) for copy in range(copies)]
    answers = {system: [answer(id_, "x", group=group) for group, id_ in names] for system in ("base", "sft")}
    base = {id_: 50.0 for _, id_ in names}
    sft = {f"r{i}.{copy}": 50.0 + gain for i, gain in enumerate(gains) for copy in range(copies)}
    (one,) = slices_of("kind", answers, {"base": base, "sft": sft})["facts"].differences
    return one


GAINS = [-10.0, 4.0, -22.5, 7.0, -31.0, -3.0, -12.0, -40.0, -5.5, 2.0, -18.0, -26.0]


def test_near_duplicates_count_once_in_a_slice():
    alone, copied = change_of(GAINS), change_of(GAINS, copies=3)
    assert copied.count == 3 * alone.count
    assert (copied.mean, copied.low, copied.high) == (alone.mean, alone.low, alone.high)


def test_a_loss_in_a_slice_is_as_sure_as_the_same_gain():
    loss, gain = change_of(GAINS), change_of([-one for one in GAINS])
    assert (loss.mean, loss.low, loss.high) == (-gain.mean, -gain.high, -gain.low)
    assert loss.low < loss.mean < loss.high < 0
