import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instruct.evaluation.judges.parse import LONGEST, MOST_BROKEN, Scale, parse_choice, parse_score

FENCED = '```json\n{\n  "score": 85\n}\n```'


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        # JSON, as asked for
        ('{"score": 85}', 85),
        ('{"score":0}', 0),
        ('{"score": 100}', 100),
        ('\n {\n  "score" : 85\n }\n', 85),
        (FENCED, 85),
        ("```\n85\n```", 85),
        ('Here is my verdict: {"score": 85}', 85),
        ('{"score": 85}\nThe response has 2 small flaws.', 85),
        ('{"score": 85, "reason": "3 of 4 are {right}, so not 100"}', 85),
        ('{"reason": "3 errors", "score": 85}', 85),
        ('{"Score": 85}', 85),
        ('{"score": "85"}', 85),
        ('{"score": "85/100"}', 85),
        ('[{"score": 85}]', 85),
        # a number alone
        ("85", 85),
        ("0", 0),
        ("100", 100),
        (" 85\n", 85),
        ("85.", 85),
        ("85!", 85),
        ('"85"', 85),
        ("**85**", 85),
        ("`85`", 85),
        ("[[85]]", 85),
        ("85%", 85),
        ("85 %", 85),
        ("85 points", 85),
        ("85/100", 85),
        ("85 / 100", 85),
        ("100/100", 100),
        ("0/100", 0),
        ("85 out of 100", 85),
        ("<score>85</score>", 85),
        # words that call it the score
        ("Score: 85", 85),
        ("score 85", 85),
        ("SCORE = 85", 85),
        ("Score – 85", 85),
        ("Score:85", 85),
        ("Score: 85%", 85),
        ("Score: 85/100", 85),
        ("**Score:** 85", 85),
        ("**Score: 85/100**", 85),
        ("## Score\n85", 85),
        ("Score (0-100): 85", 85),
        ("Final score: 100", 100),
        ("Rating: 85 (mostly right)", 85),
        ("Score: 85 - correct, but terse", 85),
        ("Score: 85, because a detail is missing.", 85),
        ("The score is 85.", 85),
        ("The score for this response is 85", 85),
        ("The response is correct. Score: 85", 85),
        ("The response is correct.\n\nScore: 85\n\nIt could be shorter.", 85),
        ("I give 85 out of 100", 85),
        ("I give it 85 points.", 85),
        ("I would rate this response 85", 85),
        ("I'd give the response a score of 85 because it is right.", 85),
        ("I’d score it 85/100.", 85),
        ("On a scale from 0 to 100, I would give this response 85.", 85),
        # thoughts that leaked into the reply
        ("<think>Maybe 20? No.</think>\n85", 85),
        # a whole number that the server or the model writes as a decimal
        ('{"score": 85.0}', 85),
        ('{"score": 0.0}', 0),
        ('{"score": "85.00"}', 85),
        ("85.0", 85),
        ("Score: 85.0/100", 85),
        ("I give it 85.0 out of 100.", 85),
        ('<think>\n{"score": 20}\n</think>\n{"score": 85}', 85),
        ("thoughts of 20</think>85", 85),
    ],
)
def test_a_score_that_is_said_to_be_one_is_read(reply, score):
    assert parse_score(reply) == score


@pytest.mark.parametrize(
    "reply",
    [
        # nothing there
        "",
        " \n",
        "about eighty",
        "excellent",
        "{}",
        "null",
        "NaN",
        "N/A",
        "八十五",
        # no whole number from 0 to 100
        "850",
        "101",
        "-5",
        "−5",
        "–5",
        "Score: -5",
        "Score: −5",
        "+85",
        "85.5",
        "85,5",
        "1.0",
        '{"score": 1.0}',  # the best score on a scale to 1
        "-5.0",
        "85.0.1",
        "85.05",
        "0.85",
        ".85",
        "Score: 85.5",
        "Score: .85",
        "1,000",
        # a decimal comma, or one between thousands
        "Score: 4,5",
        "My score is 0,9.",
        "Score: 10,000",
        "I give it 85,0 points",
        "085",
        "1e2",
        "0x55",
        "85½",
        "8²",
        "٨٥",
        "८५",
        "８５",
        '{"score": 85.5}',
        '{"score": 1e2}',
        '{"score": -5}',
        '{"score": 101}',
        '{"score": true}',
        '{"score": null}',
        '{"score": [85]}',
        '{"score": {"value": 85}}',
        '{"score": "high"}',
        '{"score": ""}',
        '{"score": "850"}',
        '{"rating": 85}',
        '{"result": {"score": 85}}',
        '{"score": 1' + "0" * 5000 + "}",
        # another scale
        "8/10",
        "Score: 4/5",
        "4 out of 5",
        "85/1000",
        "85/100.5",
        "5/100000",
        # more than one number
        "70 or 80",
        "70-80",
        "85–90",
        "between 70 and 80",
        "Score: 85\nConfidence: 90",
        '{"score": 10} {"score": 90}',
        '{"score": 10, "score": 90}',
        '{"score": 10, "Score": 90}',
        "0-100",
        "The score is between 0 and 100.",
        "85 ٣",
        # a number that is not the score
        "The right answer is 42.",
        "The response gives 42 instead of the right answer.",
        "It has 3 errors.",
        "1. The response is correct.",
        "1) correct",
        "The home score is 3.",
        "The response is 50% longer than needed.",
        "GPT-4",
        "Section 7",
        # cut off
        '{"score": 8',
        '{"score": 85',
        '{"score',
        "```json\n{",
        "<think>I think 85",
        "<think>\n85\n",
        # not JSON, and not to be guessed at
        "{'score': 85}",
        "{score: 85}",
        "~85",
        "<85",
        ">85",
        "Score: >85",
    ],
)
def test_a_reply_that_does_not_say_one_score_has_none(reply):
    assert parse_score(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        "1" * LONGEST,
        "1" * 1_000_000,
        "{" * LONGEST,
        '{"a":' * (LONGEST // 5),
        "[" * LONGEST,
        '{"a' * (LONGEST // 3),
        " " * LONGEST,
        "85 " * (LONGEST // 3),
        "i give " + "it " * 6000,
        "the " * 4000 + "score",
        "/100" * (LONGEST // 4),
        "0 to 100 " * (LONGEST // 9),
        "<think>" * (LONGEST // 7),
        "\ud800",
        "\x00",
    ],
)
def test_hostile_replies_have_no_score_and_do_not_raise(reply):
    assert parse_score(reply) is None


PIECES = [
    "{",
    '{"',
    '{"a":',
    '{"a":1,',
    "{}",
    "1\n",
    "1 ",
    "1.",
    "the ",
    "score ",
    "score: ",
    "i give it ",
    "85 - ",
    "a\n",
    '"',
    "\\",
]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("parse", [parse_score, parse_choice])
def test_the_work_grows_no_faster_than_the_reply(parse, piece):
    def work(length):
        """Calls of Python and of C, and errors of the JSON parser, each of which walks the whole text; no times."""
        calls = errors = 0

        def note(frame, event, argument):
            nonlocal calls, errors
            calls += event in ("call", "c_call")
            errors += event == "call" and frame.f_code is json.JSONDecodeError.__init__.__code__

        sys.setprofile(note)
        try:
            parse(piece * (length // len(piece)))
        finally:
            sys.setprofile(None)
        return calls, errors

    (small, _), (large, errors) = work(2_000), work(16_000)
    assert large <= 9 * small + 200
    assert errors <= MOST_BROKEN


@given(st.text(max_size=60) | st.text(alphabet='0159 ./-%{}":,escor\n', max_size=40))
@example("{")
@settings(max_examples=400)
def test_whatever_the_reply_the_score_is_none_or_a_whole_number_that_stands_there(reply):
    score = parse_score(reply)
    assert score is None or (type(score) is int and 0 <= score <= 100 and str(score) in reply)


@pytest.mark.parametrize("mark", ["#", "*", "**", "_", "`", "][", "</score>"])
def test_markup_between_two_digits_does_not_join_them(mark):
    assert parse_score(f"1{mark}0") is None
    assert parse_score(f"Score: {mark}10{mark}") == 10


@given(st.integers(-1000, 1000), st.text(max_size=30))
@settings(max_examples=200)
def test_json_with_the_asked_for_schema_is_always_read(score, reason):
    expected = score if 0 <= score <= 100 else None
    value = {"score": score, "reason": reason}
    for ascii_only in (True, False):
        for indent in (None, 2):
            assert parse_score(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == expected


@given(st.integers(0, 100))
@settings(max_examples=101)
def test_every_score_is_read_in_every_form(score):
    for form in ("{}", "{}.", "{}/100", "Score: {}", "I give it {} out of 100.", '{{"score": {}}}'):
        assert parse_score(form.format(score)) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 4}', 4),
        ("4", 4),
        ("4/5", 4),
        ("4 out of 5", 4),
        ("4 out of five", 4),
        ("Score: 4", 4),
        ("Score (1-5): 4", 4),
        ("On a scale of 1 to 5, I give it 4.", 4),
        ("**Rating:** 1", 1),
        ('{"score": 1.0}', 1),
        ('{"score": 4.0}', 4),
        ('{"score": 4.5}', None),
        ("0", None),
        ("6", None),
        ('{"score": 0}', None),
        ('{"score": 80}', None),
        ("80/100", None),
        ("4/10", None),
        ("4%", None),
        ("4.5", None),
        ("Score: 4,5", None),
        ("Score: 4, but 5 was near", None),
        ("Score: 4, a good one", 4),
        ("3 or 4", None),
        ("The response makes 2 mistakes.", None),
        ("Level 3 or better", None),
    ],
)
def test_levels_from_1_to_5_are_read(reply, score):
    assert parse_score(reply, Scale(1, 5)) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Reason: 3 of the 4 items are right.\nScore: 75", 75),
        ("It gives 42 instead of 41.\n\n**Score: 25/100**", 25),
        ("Two flaws, 1) and 2).\nI give it 50 out of 100.", 50),
        ('{"reason": "3 of 4", "score": 75}', 75),
        (
            "Score: 75\nReason: 3 of 4 are right.",
            None,
        ),  # asked for behind the reason; a later number may be a correction
        ("3 of 4 are right.\n75", None),  # a number alone may be the last point of a list
        ("Score: 20\nScore: 75 or 80", None),
        ("The answer is right.", None),
        ("Score: 75", 75),
    ],
)
def test_a_reason_before_the_score_may_hold_numbers(reply, score):
    assert parse_score(reply, reasoned=True) == score


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"winner": "A"}', "A"),
        ('{"winner": "B"}', "B"),
        ('{"winner": "tie"}', "tie"),
        ('{"Winner": "Response B"}', "B"),
        ('```json\n{\n  "winner": "A"\n}\n```', "A"),
        ('{"reason": "B is wrong", "winner": "A"}', "A"),
        ("A", "A"),
        ("b.", "B"),
        ("**A**", "A"),
        ("[[A]]", "A"),
        ("[[B]]", "B"),
        ("[[C]]", "tie"),  # MT-Bench's tie
        ("Tie", "tie"),
        ("It is a tie.", "tie"),
        ("Winner: A", "A"),
        ("The winner is B.", "B"),
        ("Response A is better.", "A"),
        ("Response B is clearly better than response A.", "B"),
        ("I prefer response A.", "A"),
        ("The better response is B.", "B"),
        ("Both are equally good.", "tie"),
        ("<think>B? no</think>A", "A"),
        ("", None),
        ("A or B", None),
        ("A and B", None),
        ("A\nB", None),
        ("A good answer.", None),
        ("A response that is right.", None),
        ("Response A and response B differ.", None),
        ("Response A is better. Response B is better.", None),
        ("Response B is wrong. Winner: A", None),  # it speaks of both: not plain enough
        ('{"winner": "D"}', None),
        ('{"winner": ""}', None),
        ('{"winner": null}', None),
        ('{"winner": "A", "winner": "B"}', None),
        ('{"winner": "A"} {"winner": "B"}', None),
        ('{"score": 5}', None),
        ('{"winner": "A', None),
        ("<think>A", None),
        ("Neither A nor B", None),
        ("A" * 30000, None),
    ],
)
def test_a_choice_is_read_where_it_is_plain(reply, choice):
    assert parse_choice(reply) == choice


@given(st.text(max_size=60) | st.text(alphabet='AB abtie.[]{}winer:"\n', max_size=40))
@settings(max_examples=300)
def test_whatever_the_reply_the_choice_is_one_of_three_or_none(reply):
    assert parse_choice(reply) in ("A", "B", "tie", None)
