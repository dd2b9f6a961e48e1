import json
from pathlib import Path

import pytest
from evaluation.answers import answer

from instruct.core.errors import DataError
from instruct.evaluation.score import Judgement
from instruct.tools.question_file import Question, read_questions
from instruct.tools.questions import answer_turns, table


def test_the_questions_that_are_shipped_can_be_read():
    questions = read_questions(Path(__file__).parents[2] / "data/questions.jsonl")
    assert len(questions) == 8
    assert {len(one.turns) for one in questions} == {2}
    assert sum(bool(one.references[0]) for one in questions) >= 3


def test_mt_benchs_own_line_is_read(tmp_path):
    line = {"question_id": 101, "category": "reasoning", "turns": ["Who?", "Why?"], "reference": ["Me.", "So."]}
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n\n")
    (found,) = read_questions(tmp_path / "q.jsonl")
    assert found == Question(id="101", category="reasoning", turns=("Who?", "Why?"), references=("Me.", "So."))


def test_a_line_ends_where_its_json_does(tmp_path):
    """U+2028 and U+0085 end a line for Python, and are plain characters of a JSON text."""
    text = "One\u2028line\u0085only?"
    line = json.dumps({"question_id": 1, "turns": [text]}, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_text(f"{line}\r\n", encoding="utf-8")
    assert [one.turns for one in read_questions(tmp_path / "q.jsonl")] == [(text,)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "q.jsonl:2: "),
        ("[]", "q.jsonl:2: .*question_id"),
        ('{"turns": ["a"]}', "q.jsonl:2: .*question_id"),
        ('{"question_id": 2, "turns": []}', "q.jsonl:2: turns"),
        ('{"question_id": 2, "turns": "a"}', "q.jsonl:2: turns"),
        ('{"question_id": 2, "turns": ["a", " "]}', "q.jsonl:2: turns"),
        ('{"question_id": 2, "turns": ["a"], "reference": ["b", "c"]}', "q.jsonl:2: reference"),
        ('{"question_id": 1, "turns": ["a"]}', "q.jsonl:2: question_id 1"),
    ],
)
def test_a_bad_line_is_told(tmp_path, line, words):
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "turns": ["a"]}\n' + line)
    with pytest.raises(DataError, match=words):
        read_questions(tmp_path / "q.jsonl")


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "q.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"q\.jsonl"):
        read_questions(tmp_path / "q.jsonl")


def test_a_second_turn_sees_the_first_and_its_own_systems_answer():
    questions = [
        Question(id="1", category="a", turns=("One?", "Two?"), references=("", "")),
        Question(id="2", category="b", turns=("Only?",), references=("yes",)),
    ]
    asked = []

    def echo(examples):
        asked.append([(one.id, one.input, [turn[::2] for turn in one.turns]) for one in examples])
        return [answer(one.id, f"to {one.instruction}", **{"instruction": one.instruction}) for one in examples]

    responses = answer_turns(questions, echo)
    assert [one.id for one in responses] == ["1-1", "2-1", "1-2"]
    assert asked == [
        [("1-1", "", [("One?", "")]), ("2-1", "", [("Only?", "yes")])],
        [("1-2", "", [("One?", "to One?"), ("Two?", "")])],
    ]


def test_the_table_has_means_with_denominators():
    def one(kind, system, score):
        return Judgement(id="x", judge="j", system=system, kind=kind, score=score, problem="", raw_reply="")

    lines = list(table([one("math", "base", 50.0), one("math", "base", None), one("code", "base", 100.0)]))
    assert [line.split() for line in lines[1:]] == [
        ["j", "math", "base", "50.0", "1", "of", "2"],
        ["j", "code", "base", "100.0", "1", "of", "1"],
        ["j", "all", "base", "75.0", "2", "of", "3"],
    ]
