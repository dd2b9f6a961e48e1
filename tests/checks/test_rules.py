"""The rule that tells right answers from wrong ones, against answers that were labelled by hand."""

import json
from functools import cache
from pathlib import Path

import pytest

from instruct.checks.numbers import numbers_of
from instruct.checks.rules import is_right
from instruct.checks.schema import parse_check
from instruct.core.records import Ids

ROOT = Path(__file__).parents[2]
LABELLED = Path(__file__).with_name("labelled.jsonl")
LABELLED_2 = Path(__file__).with_name("labelled-2.jsonl")


@cache
def records():
    rows, checks = (
        json.loads((ROOT / "data" / f"{name}.json").read_text("utf-8")) for name in ("instructions", "checks")
    )
    ids = Ids()
    return {id_: {**row, "check": checks[id_]} for row in rows for id_ in [ids.make(row)]}


def judge(row, answer):
    check = parse_check(row["check"], row["instruction"])
    return is_right(check, answer, f"{row['instruction']}\n{row['input']}")


def closed():
    return [row for row in records().values() if row["check"]["type"] != "open"]


def test_every_record_says_what_makes_an_answer_right():
    assert all(parse_check(row["check"], id_) for id_, row in records().items())
    assert len(closed()) / len(records()) > 0.7


def test_every_reference_answer_is_right():
    assert [row["output"] for row in closed() if not judge(row, row["output"])] == []


def test_neither_the_question_nor_silence_is_an_answer():
    copies = [row for row in closed() if len(row["input"].split()) > 1 and judge(row, row["input"])]
    assert copies == []
    assert not any(judge(row, "") or judge(row, row["instruction"]) for row in closed())


def test_the_answer_to_another_record_of_the_kind_is_wrong():
    """By chance alone, labels of few options apart, hardly any answer fits two questions."""
    rows = [row for row in closed() if row["check"]["type"] != "one_of"]
    wrong = [judge(a, b["output"]) for a, b in zip(rows, rows[1:] + rows[:1], strict=True)]
    assert sum(wrong) <= 0.005 * len(rows)


def test_the_rule_agrees_with_98_of_100_labels():
    labels = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    said = [(judge(records()[one["id"]], one["answer"]), one["right"]) for one in labels]
    assert len(said) >= 300
    assert sum(a == b for a, b in said) >= 0.98 * len(said)
    for right in (True, False):  # neither way: what is right taken for wrong, what is wrong for right
        own = [a for a, b in said if b is right]
        assert len(own) > 100 and sum(a is not right for a in own) <= 0.02 * len(own)


def test_the_rule_agrees_with_98_of_100_answers_that_another_reader_labelled():
    """Answers of both models, drawn at random and labelled before the rule was asked, by a second language model.

    As found, the rule was wrong on 4 of these 240 (1.7 %): on 1 of 182 wrong answers, a list that begins with the right
    one, and on 3 of 58 right ones: a keyword in the singular, "own no car", a sentence that names others. The checks of
    keywords and of that negation were mended since; no answer after the first 170 was misjudged.
    """
    labels = [json.loads(line) for line in LABELLED_2.read_text(encoding="utf-8").splitlines()]
    said = [(judge(records()[one["id"]], one["answer"]), one["right"]) for one in labels]
    assert len(said) == 240 and sum(right for _, right in said) == 58
    assert sum(a is not b for a, b in said) <= 0.02 * len(said)
    assert sum(a for a, right in said if not right) <= 1
    assert sum(not a for a, right in said if right) <= 1


def number(value, **more):
    return {"type": "number", "value": value, **more}


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "Lima is the capital of Peru.", True),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "Lima or Quito", False),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "Lima, Quito", False),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "Lima and Quito are its capitals.", False),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "It is not Lima.", False),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "Perhaps Lima.", False),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "**Lima**", True),
        ({"type": "accept", "accept": ["Lima"]}, "Capital of Peru?", "Limassol", False),
        (number(12, unit="meters"), "How long?", "It is 12 m long.", True),
        (number(12, unit="meters"), "How long?", "12 feet", False),
        (number(12, unit="meters"), "How long?", "1200 centimeters", False),
        (number(12, tolerance=0.5), "How much?", "about 12.4", True),
        (number(12), "How much?", "11, 12", False),
        (number("3/4"), "Simplify 6/8.", "6/8 is 3/4", True),
        (number("3/4"), "Simplify 6/8.", "0.75", False),
        ({"type": "one_of", "answer": "spam", "options": ["spam", "not spam"]}, "Spam?", "Not spam", False),
        ({"type": "set", "items": ["copper", "tin"]}, "Which metals?", "tin and copper", True),
        ({"type": "set", "items": ["copper", "tin"]}, "Which metals?", "copper, tin and lead", False),
        ({"type": "order", "items": ["egg", "adult"]}, "Order adult, egg.", "1. Egg\n2. Adult", True),
        ({"type": "order", "items": ["egg", "adult"]}, "Order adult, egg.", "adult, egg", False),
        ({"type": "exact", "accept": ["It's late."], "strict": True}, "Add it.", "It's late", False),
        ({"type": "exact", "accept": ["She left."]}, "Rewrite.", "The sentence is: she left", True),
    ],
)
def test_right_wrong_hedged_several_denied_and_other_units(check, question, answer, right):
    assert is_right(parse_check(check, "here"), answer, question) is right


@pytest.mark.parametrize(
    "answer", ["...", "\n", "?!", "1" * 6000 + "/3", "3/" + "9" * 6000, "1/0", "\ud83d", "9" * 6000]
)
def test_no_answer_of_a_model_is_more_than_wrong(answer):
    checks = [row["check"] for row in records().values() if row["check"]["type"] != "open"]
    kinds = {check["type"]: check for check in checks}
    assert set(kinds) == {"exact", "accept", "one_of", "number", "set", "order"}
    assert not any(is_right(parse_check(check, "here"), answer, "Why?") for check in kinds.values())


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1,250.5 kilograms", 1250.5, "kilograms"),
        ("−3 °C", -3, "celsius"),
        ("$6.40", 6.4, "dollars"),
        ("15 %", 15, "percent"),
        ("28 square centimetres", 28, "square centimeters"),
        ("5 m/s", 5, "meters per second"),
        ("one hundred and twenty-five days", 125, "days"),
        ("2 1/2 hours", 2.5, "hours"),
    ],
)
def test_numbers_are_read_with_their_units(text, value, unit):
    (found,) = numbers_of(text)
    assert (found.value, found.unit) == (value, unit)
