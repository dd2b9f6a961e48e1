import pytest
from evaluation.answers import answer

from instruct.core.errors import DataError
from instruct.core.records import Turn
from instruct.evaluation.human import (
    COLUMNS,
    answer_key,
    blank_rows,
    count_scored,
    human_scores,
    merge_rows,
    read_rows,
    write_rows,
)

ANSWERS = {
    "base": [answer(f"r{i}", f"base {i}" if i else "Paris") for i in range(6)],
    "sft": [answer(f"r{i}", f"sft {i}" if i else "Paris") for i in range(6)],
}


def test_a_blank_file_holds_each_text_once_and_no_systems_name():
    rows = blank_rows(ANSWERS, 6, 1)
    assert len(rows) == 11  # both answered Paris to the first
    assert all(set(row) == set(COLUMNS) and row["score"] == "" for row in rows)
    shown = [value for row in rows for name, value in row.items() if name != "response"]
    assert not any("base" in value or "sft" in value for value in shown)
    assert {row["response"] for row in rows} == {one.response for system in ANSWERS.values() for one in system}


def test_order_is_mixed_by_the_seed_and_the_same_again():
    assert blank_rows(ANSWERS, 6, 1) == blank_rows(ANSWERS, 6, 1) != blank_rows(ANSWERS, 6, 2)
    systems = ["base" in row["response"] for row in blank_rows(ANSWERS, 6, 1)]
    assert systems not in (sorted(systems), sorted(systems, reverse=True))


def test_both_answers_to_a_chosen_record_are_asked_for():
    rows = blank_rows(ANSWERS, 3, 5)
    assert len({row["instruction"] for row in rows}) == 3


def test_scores_find_their_answers_whoever_gave_them(tmp_path):
    rows = blank_rows(ANSWERS, 6, 1)
    for row in rows:
        row["score"] = {"Paris": "100", "base 3": "7.5"}.get(row["response"], "")
    write_rows(tmp_path / "human.csv", rows)
    scores, unused = human_scores(read_rows(tmp_path / "human.csv"), ANSWERS)
    assert (scores["base"]["r0"], scores["sft"]["r0"]) == (100, 100)
    assert (scores["base"]["r3"], scores["sft"]["r3"]) == (7.5, None)
    assert (count_scored(scores), unused) == (3, 0)


def test_a_score_of_an_answer_that_is_gone_is_counted_and_not_used():
    rows = [{**row, "score": "50"} for row in blank_rows(ANSWERS, 1, 1)]
    others = {system: [answer(one.id, "anew") for one in responses] for system, responses in ANSWERS.items()}
    scores, unused = human_scores(rows, others)
    assert (count_scored(scores), unused) == (0, len(rows))


def test_the_key_is_of_task_reference_and_answer():
    one = answer("x", "a")
    assert answer_key(one) == answer_key(answer("x", "a", kind="other", stop_reason="length"))
    for other in (answer("x", "b"), answer("x", "a", output="c"), answer("y", "a"), answer("x", "a", input="i")):
        assert answer_key(other) != answer_key(one)


def test_answers_to_one_question_after_different_turns_are_different_tasks():
    """A person sees what a model judge sees: the system prompt and the turns before the question."""
    asked = {"instruction": "Is it large?", "output": "Yes."}
    canada = answer("r1", "Yes.", **asked, history=(Turn("Tell me about Canada.", "", "It is a country."),))
    sun = answer("r2", "Yes.", **asked, system="Be brief.", history=(Turn("What is the sun?", "In a word", "A star."),))
    rows = {row["answer"]: row["instruction"] for row in blank_rows({"sft": [canada, sun]}, 2, 1)}
    assert len(rows) == 2
    for part in ("Tell me about Canada.", "It is a country.", "Is it large?"):
        assert part in rows[answer_key(canada)]
    for part in ("Be brief.", "What is the sun?", "In a word", "A star.", "Is it large?"):
        assert part in rows[answer_key(sun)]
    scored = [{**row, "score": "90"} for row in blank_rows({"sft": [canada]}, 1, 1)]
    assert human_scores(scored, {"sft": [canada, sun]})[0]["sft"] == {"r1": 90.0, "r2": None}


def test_keys_of_single_questions_are_those_of_files_that_people_have_filled_in():
    assert answer_key(answer("r1", "Paris")) == "b4967b95b140"


def test_a_new_blank_keeps_what_was_scored():
    old = blank_rows(ANSWERS, 2, 1)
    old[0]["score"] = "40"
    merged = merge_rows(old, blank_rows(ANSWERS, 6, 2))
    assert merged[0] == old[0]
    assert len({row["answer"] for row in merged}) == len(merged) == 11


def test_a_new_blank_keeps_what_was_noted_and_drops_what_was_left_empty():
    old = blank_rows(ANSWERS, 2, 1)
    old[1]["note"] = "ask the author"
    merged = merge_rows(old, [])
    assert merged == [old[1]]


def test_texts_come_back_as_they_were(tmp_path):
    hard = [answer("r0", 'a,"b"\nc\r\nd'), answer("r1", "=1+1"), answer("r2", "東京")]
    rows = blank_rows({"base": hard}, 3, 1)
    write_rows(tmp_path / "h.csv", rows)
    assert read_rows(tmp_path / "h.csv") == rows


@pytest.mark.parametrize("score", ["101", "-1", "eighty", "nan", "inf", "8０", "85/100"])
def test_a_score_that_is_none_is_told_with_its_row(tmp_path, score):
    rows = blank_rows(ANSWERS, 6, 1)
    rows[4]["score"] = score
    write_rows(tmp_path / "h.csv", rows)
    with pytest.raises(DataError, match=r"h\.csv, row 5: the score .* must be a number from 0 to 100"):
        read_rows(tmp_path / "h.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("answer,score\na1,50\n", "row 1: must have the columns answer, score, note"),
        (",".join(COLUMNS) + "\na1,50,,i,,r\n", r"h\.csv:2: "),
        (",".join(COLUMNS) + "\na1,50,,i,,r,x,y\n", r"h\.csv:2: "),
        (",".join(COLUMNS) + "\na1,50,,i,,r,x\na1,60,,i,,r,x\n", "row 2: the answer a1 is also in row 1"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path, text, words):
    (tmp_path / "h.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / "h.csv")


def test_the_file_as_it_is_shipped_holds_no_score_or_good_ones():
    from pathlib import Path

    read_rows(Path(__file__).parents[2] / "data/human-scores.csv")
