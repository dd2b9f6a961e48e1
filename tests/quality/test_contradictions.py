from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_records import example

from instruct.quality.contradictions import Contradictions


def groups(records):
    check = Contradictions()
    for record in records:
        check.add(record)
    return [[check.ids[place] for place in members] for members in check.groups()]


def record(i, instruction, input, output):
    return example(output, instruction, input, id=f"é{i}")


letters = st.sampled_from("abc")


@given(st.lists(st.tuples(letters, letters, letters), max_size=40))
def test_the_groups_are_those_of_a_dictionary(triples):
    records = [record(i, *triple) for i, triple in enumerate(triples)]
    answers = defaultdict(list)
    for one in records:
        answers[one.instruction, one.input].append(one)
    expected = [[r.id for r in same] for same in answers.values() if len({r.output for r in same}) > 1]
    assert groups(records) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Drew.", "drew"),
        ("The past of 'draw' is 'drew.'", "The past of 'draw' is 'drew'."),
        ("a, b", "a b"),
        ("x  y", "x\ny"),
    ],
)
def test_the_same_answer_in_other_marks_is_no_contradiction(first, second):
    assert groups([record(1, "Say it.", "", first), record(2, "say  it.", "", second)]) == []


@pytest.mark.parametrize(
    ("first", "second"), [("1.5", "15"), ("-5", "5"), ("3:45", "345"), ("1,000", "1000.5"), ("Yes", "No")]
)
def test_another_answer_is_a_contradiction_however_alike(first, second):
    assert groups([record(1, "Say it.", "", first), record(2, " SAY it.", "", second)]) == [["é1", "é2"]]


def test_the_border_between_instruction_and_input_counts():
    assert groups([record(1, "a", "b c", "x"), record(2, "a b", "c", "y")]) == []


def test_answers_are_counted_once_each():
    check = Contradictions()
    for i, output in enumerate(["x", "y", "x.", "z"]):
        check.add(record(i, "a", "", output))
    (members,) = check.groups()
    assert check.answers_of(members) == 3
