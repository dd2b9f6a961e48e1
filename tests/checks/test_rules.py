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


@pytest.mark.parametrize("doubt", ["Maybe {}", "Perhaps {}", "It is possibly {}"])
def test_no_answer_in_doubt_is_right(doubt):
    assert [row["output"] for row in closed() if judge(row, doubt.format(row["output"]))] == []


def test_no_denied_number_or_order_is_right():
    numbers = [row for row in closed() if row["check"]["type"] == "number" and isinstance(row["check"]["value"], int)]
    denied = [(row, f"It is not {row['check']['value']}.") for row in numbers]
    denied += [(row, f"It is not {row['output']}") for row in closed() if row["check"]["type"] == "order"]
    assert len(denied) > 150 and [answer for row, answer in denied if judge(row, answer)] == []


@pytest.mark.parametrize("form", ["- {}\n- banana", "1. banana\n2. {}"])
def test_no_answer_in_a_list_with_a_wrong_item_is_right(form):
    rows = [row for row in closed() if row["check"]["type"] in ("accept", "set", "order")]
    assert [row["output"] for row in rows if judge(row, form.format(row["output"]))] == []


@pytest.mark.parametrize("form", ["**{}**", "The answer is: {}", "Answer:\n\n{}"])
def test_every_reference_answer_is_right_in_another_form(form):
    assert [row["output"] for row in closed() if not judge(row, form.format(row["output"]))] == []


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


PERU = "What is the capital of Peru?"


def accept(*texts):
    return {"type": "accept", "accept": list(texts)}


def one_of(answer, *others):
    return {"type": "one_of", "answer": answer, "options": [answer, *others]}


def exact(text):
    return {"type": "exact", "accept": [text]}


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        (accept("Lima"), PERU, "- Lima\n- Quito\n- Bogota", False),
        (accept("Lima"), PERU, "1. Lima\n2. Quito", False),
        (accept("Lima"), PERU, "Quito\nLima", False),
        (accept("Lima"), "Is it Lima, Quito or Bogota?", "1. Lima\n2. Quito\n3. Bogota", False),
        (accept("Lima"), PERU, "- Lima", True),
        (accept("Lima"), PERU, "Lima\n\nLima is the capital of Peru.", True),
        (accept("Lima"), PERU, "1. Lima is the capital of Peru.\n2. It has many people.", True),
        (accept("Lima"), PERU, "Lima is not the capital of Peru.", False),
        (accept("Lima"), PERU, "Lima isn't the capital of Peru.", False),
        (accept("lend"), "Opposite of borrow?", "lend, not borrow", True),
        (accept("Lima"), PERU, "Lima, Peru", True),
        (accept("Lima"), "Is it Lima or Quito?", "Lima, Quito", False),
        (accept("1776"), "When?", "July 4, 1776", True),
        (accept("1776"), "When?", "1776, 1777", False),
        (accept("cat"), "Which is the odd one out?", "The word that does not belong is cat.", True),
        (one_of("Lisbon", "Rome"), "Which is not in Italy: Rome or Lisbon?", "Lisbon is not in Italy.", True),
        (one_of("Lisbon", "Rome"), "Which is not in Italy: Rome or Lisbon?", "It is not Lisbon.", False),
        (one_of(">", "<", "="), "Which sign?", ">", True),
        (one_of(">", "<", "="), "Which sign?", "<", False),
        (one_of("C", "C++", "C#"), "Which language?", "C++", False),
        (one_of("C++", "C", "C#"), "Which language?", "It is C++.", True),
        (accept("दिन"), "Which word?", "दीन", False),
        (exact("-5"), "Solve it.", "5", False),
        (exact("x > 3"), "Solve it.", "x < 3", False),
        (exact("x > 3"), "Solve it.", "x > 3.", True),
    ],
)
def test_lists_denials_places_dates_and_signs(check, question, answer, right):
    assert is_right(parse_check(check, "here"), answer, question) is right


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        (number(7), "3 + 4?", "7 is not right.", False),
        (number(7), "3 + 4?", "No, it is 7.", True),
        (number(-5, unit="celsius"), "How cold?", "minus 5 degrees Celsius", True),
        (number(5), "How cold?", "minus 5", False),
        (number(-5), "How cold?", "negative five", True),
        (number(3), "12 minus 9?", "12 minus 9 is 3", True),
        (number(3), "How much?", "3,14", False),
        (number(3.14), "How much?", "3,14", True),
        (number(12, unit="meters"), "How long?", "12,5 meters", False),
        (number(1250), "How much?", "1,2500", False),
        (number(3), "The score?", "2-3", False),
        (number(3), "How much?", "5-2 = 3", True),
        (number(10), "How much?", "10²", False),
        (number(9, unit="meters"), "How long?", "9 m²", False),
        (number(20, unit="m²"), "What area?", "20 m²", True),
        (number(20, unit="m²"), "What area?", "20 m", False),
        (number(60, unit="miles per hour"), "How fast?", "60 miles", False),
        (number(60, unit="miles per hour"), "How fast?", "60 mph", True),
        (number(60, unit="miles per hour"), "How fast?", "60", True),
        (number(40, unit="minutes"), "The average?", "40 minutes per day", True),
        (number(72, unit="legs"), "How many?", "72 in all", True),
        (number(365, unit="days"), "How many?", "There are 365 in a year", True),
        (number(5, unit="feet"), "How wide?", "5 in wide", False),
        (number(1989), "When did the Berlin Wall fall?", "The Berlin Wall fell on November 9, 1989.", True),
        (number(1989), "When did the Berlin Wall fall?", "on the 9th of November 1989", True),
        (number(1989), "When did the Berlin Wall fall?", "November 9, 1990", False),
        (number(7_000_000), "How much?", "7 million", True),
        (number(2_500_000), "How much?", "2.5 million", True),
        (number([45, 54, 63]), "Go on.", "45,54,63", True),
    ],
)
def test_signs_commas_powers_rates_and_dates_of_numbers(check, question, answer, right):
    assert is_right(parse_check(check, "here"), answer, question) is right


@pytest.mark.parametrize(
    "answer",
    ["...", "\n", "?!", "1" * 6000 + "/3", "3/" + "9" * 6000, "1/0", "\ud83d", "9" * 6000, "hundred " * 3000, "<", "-"],
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
        ("60 miles an hour", 60, "miles per hour"),
        ("9.8 m/s²", 9.8, "meters per square second"),
        ("$2.50 per hour", 2.5, "dollars per hour"),
        ("42 cm²", 42, "square centimeters"),
        ("42 cm^2", 42, "square centimeters"),
        ("42 cm2.", 42, "square centimeters"),
        ("30 cm³", 30, "cubic centimeters"),
        ("7½ hours", 7.5, "hours"),
        ("minus 40 °F", -40, "fahrenheit"),
        ("$3 billion", 3e9, "dollars"),
        ("one hundred and twenty-five days", 125, "days"),
        ("2 1/2 hours", 2.5, "hours"),
    ],
)
def test_numbers_are_read_with_their_units(text, value, unit):
    (found,) = numbers_of(text)
    assert (found.value, found.unit) == (value, unit)
