"""The rule that tells right answers from wrong ones, against answers that were labelled by hand."""

import json
from functools import cache
from pathlib import Path

import pytest

from instruct.checks import number_rule
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


def order(*items):
    return {"type": "order", "items": list(items)}


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
        (one_of("mammal", "fish", "bird"), "Which class?", "A walrus is a mammal, not a fish.", True),
        (one_of("mammal", "fish", "bird"), "Which class?", "A mammal rather than a fish.", True),
        (one_of("mammal", "fish", "bird"), "Which class?", "A mammal, a bird, not a fish.", False),
        (one_of("mammal", "fish", "bird"), "Which class?", "A fish, not a mammal.", False),
        (one_of("mammal", "fish", "bird"), "Which class?", "It is not a fish or a mammal.", False),
        (one_of("mammal", "fish", "bird"), "Which class?", "It is not only a fish but a mammal.", False),
        (one_of("no", "yes"), "Can I return it?", "Of course you can. There is no fee.", False),
        (one_of("no", "yes"), "Can I return it?", "Sure, no problem!", False),
        (one_of("no", "yes"), "Can I return it?", "There is no limit, so yes you can.", False),
        (one_of("no", "yes"), "Can I return it?", "No you can't, there is no way.", True),
        (one_of("no", "yes"), "Can I return it?", "No, returns are not possible.", True),
        (one_of("yes", "no"), "Can I return it?", "Yes, no questions asked.", True),
        (one_of("yes", "no"), "Can I return it?", "Yes. There are no restrictions.", True),
        (one_of("yes", "no"), "Can I return it?", "No, yes.", False),
        (accept("no"), "Can I return it?", "Of course you can. There is no fee.", False),
        (accept("no"), "Can I return it?", "The answer is no.", True),
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


CAKE = "The cake takes 60 minutes. How many seconds has a minute?"


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        (number(0), "What is 7 - 7?", "0", True),
        (number(12, tolerance=0.5), "How much?", "12.5", True),
        (number(60, unit="seconds"), CAKE, "60 seconds", True),
        (number(60, unit="seconds"), CAKE, "60", False),
        (number(8), "Which of 3, 5 and 8 is the sum of the others?", "It is 3 apples + 5 apples = 8 apples.", True),
        (accept("Lima"), PERU, "It is not the city Lima.", False),
        (order("egg", "larva", "adult"), "In which order?", "egg, larva, adult, egg", False),
        (order("New York", "York"), "In which order?", "New York", False),
    ],
)
def test_a_rule_holds_up_to_its_edge(check, question, answer, right):
    """Zero and the end of a tolerance, a unit left out, a step stated, and the words of one item for another's."""
    assert is_right(parse_check(check, "here"), answer, question) is right


SORT = "What is the median of 4, 9, 2, 7 and 5?"


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        (number(5), SORT, "Sorted: 2, 4, 5, 7, 9. The median is 7.", False),
        (number(5), SORT, "Sorted: 2, 4, 5, 7, 9. The median is 5.", True),
        (number(5), SORT, "In order, the numbers are 2, 4, 5, 7 and 9. The median is 5.", True),
        (number(5), SORT, "5 is the median of 4, 9, 2, 7 and 5.", True),
        (number(23), "Which of 12, 18, 23, 30 is odd?", "The odd number among 12, 18, 23, 30 is 12.", False),
        (
            number(21, unit="meters"),
            "What is the mean of 21, 19, 23, 20 and 22 meters?",
            "The mean of 21, 19, 23, 20 and 22 meters is 20 meters.",
            False,
        ),
        (number(3), "A pen is 5 dollars and a pad is 3 dollars. What is the pad?", "A pen is 5 and a pad is 3.", True),
        (number(500), "Is 549 closer to 500 or 600?", "Of 500 and 600, it is 549.", False),
        (number(2), "The mean of 2, 3, 1, 2, 2?", "The mean = (2 + 3 + 1 + 2 + 2", False),
        (number(2), "The mean of 2, 3, 1, 2, 2?", "The mean = (2 + 3 + 1 + 2 + 2) / 5 = 2", True),
        (number(7), "What number times 3 is 21?", "3 x 7 = 21", True),
        (number(7), "3 + 4?", "The answer is 6 x 7", False),
    ],
)
def test_a_wrong_number_of_the_question_and_a_sum_without_its_result_are_wrong(check, question, answer, right):
    assert is_right(parse_check(check, "here"), answer, question) is right


STEPS = "Tom has 3 bags with 4 apples. How many apples?"


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        (number(42), "6 x 7?", "1. 42", True),
        (number(42), "6 x 7?", "1) 42", True),
        (number(42), "6 x 7?", "1. First think.\n2. The answer is 42.", True),
        (number(42), "6 x 7?", "1. First think.\n2. The answer is forty-two.", True),
        (number(42), "6 x 7?", "42. That is it.\nIt is 6 x 7.", True),
        (number(1), "6 - 5?", "1. That is it.", True),
        (number(1), "6 - 5?", "1. 42", False),
        (number(42), "6 x 7?", "1. 41\n2. 42", False),
        (number(12), STEPS, "Step 1: 4 + 4 = 8.\nStep 2: 8 + 4 = 12.", True),
        (number(12), STEPS, "**Step 1:** 4 + 4 = 8.\n**Step 2:** 8 + 4 = 12.", True),
        (number([3, 5, 9]), "Sort 9, 5, 3.", "1. 3\n2. 5\n3. 9", True),
        ({"type": "order", "items": ["3", "5", "9"]}, "Sort 9, 5, 3.", "1. 3\n2. 5\n3. 9", True),
        ({"type": "order", "items": ["1", "2", "3"]}, "Sort 3, 1, 2.", "1. 1\n2. 2\n3. 3", True),
        ({"type": "order", "items": ["3", "5", "9"]}, "Sort 9, 5, 3.", "1. 3\n2. 9\n3. 5", False),
        (number(42), "How many?", "42 (30 + 12)", True),
        (number(7, unit="days"), "How long is a week?", "7 days, not 5", True),
        (number(7, unit="days"), "How long is a week?", "5 days, not 7", False),
        (number(60, unit="minutes"), "How many minutes are in an hour?", "60 minutes = 1 hour", True),
        (number(60, unit="minutes"), "How many minutes are in an hour?", "60 minutes (3600 seconds)", True),
        (number(100, unit="celsius"), "When does water boil?", "100°C (212°F)", True),
        (number(100, unit="celsius"), "When does water boil?", "100°C (90°C)", False),
    ],
)
def test_marks_of_steps_and_asides_are_no_claims(check, question, answer, right):
    assert is_right(parse_check(check, "here"), answer, question) is right


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (number(20, unit="dollars"), "£20"),
        (number(20, unit="dollars"), "¥20"),
        (number(20, unit="dollars"), "20 EUR"),
        (number(20, unit="dollars"), "-$20"),
        (number(5, unit="grams"), "5 micrograms"),
        (number(5, unit="meters"), "5 nm"),
        (number(5, unit="meters"), "5 μm"),
        (number(5, unit="seconds"), "5 ms"),
        (number(100, unit="watts"), "100 kilowatts"),
        (number(8, unit="bytes"), "8 bits"),
        (number(5, unit="hectares"), "5 acres"),
        (number(30, unit="kilometers per hour"), "30 knots"),
        (number(5), "x = - 5"),
    ],
)
def test_another_currency_prefix_or_sign_is_wrong(check, answer):
    assert not is_right(parse_check(check, "here"), answer, "How much?")


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        ({"type": "order", "items": ["2 kg", "1.5 kg", "750 g"]}, "2 kg, 1.5 kg, 750 g", True),
        ({"type": "order", "items": ["1/8", "1/2", "2/3"]}, "1/8, 1/2, 2/3", True),
        ({"type": "order", "items": ["-3", "0", "5"]}, "-3, 0, 5", True),
        ({"type": "order", "items": ["9:15", "10:30"]}, "9:15, 10:30", True),
        ({"type": "set", "items": ["0.5", "0.25"]}, "0.5 and 0.25", True),
        ({"type": "set", "items": ["0.5", "0.25"]}, "0.5, 0.25 and 0.75", False),
        ({"type": "order", "items": ["-3", "0", "5"]}, "-3, 0, 5, 7", False),
        (accept("five thousand"), 'They are "five thousand" and "five hundred."', False),
        (accept("five thousand"), "five hundred, five thousand", False),
    ],
)
def test_what_is_linked_to_an_answer_is_compared_whole(check, answer, right):
    assert is_right(parse_check(check, "here"), answer, "Which ones?") is right


LETTERS = "Which one? A) x B) y C) z"


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        (one_of("A", "B", "C"), "This is a hard question.", False),
        (one_of("A", "B", "C"), "I need a calculator", False),
        (one_of("A", "B", "C"), "A dog is what I see.", False),
        (accept("A"), "It is a dog.", False),
        (one_of("B", "A", "C"), "The answer is B, because water is a liquid.", True),
        (one_of("B", "A", "C"), "B. a liquid", True),
        (one_of("B", "A", "C"), "A or B", False),
        (one_of("B", "A", "C"), "Option A is wrong, B is right.", False),
        *[(one_of("A", "B", "C"), answer, True) for answer in ("A", "a", "(A) x", "A) x", "**A**: x", "It is A.")],
        (one_of("A", "B", "C"), "Option A has a liquid.", True),
        (one_of("a", "an"), "a", True),
        (one_of("an", "a"), "It is a apple.", False),
    ],
)
def test_the_article_is_not_option_a(check, answer, right):
    assert is_right(parse_check(check, "here"), answer, LETTERS) is right


def strict(text):
    return {**exact(text), "strict": True}


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        (exact("She left."), 'The past tense of "She leaves" is "She left."', True),
        (exact("She left."), 'The past tense of "She leaves" is not "She left."', False),
        (exact("She left."), 'The past tense of "She left" is "She leaves."', False),
        (strict("She left."), 'The past tense is "She left."', True),
        (strict("She left."), 'The past tense is "she left."', False),
        (strict("a**b"), "ab", False),
        (strict("a**b"), "a**b", True),
        (strict("__init__"), "init", False),
        (strict("__init__"), "`__init__`", True),
        (strict("x * 3"), "x / 3", False),
        (strict("if x:\n    y()\nz()"), "if x:\n    y()\n    z()", False),
        (strict("if x:\n    y()\nz()"), "The code is:\n\n```python\nif x:\n    y()\nz()\n```", True),
        (strict("It\u2019s late\u2026"), "**It's late...**", True),
    ],
)
def test_strict_compares_what_is_written_and_a_quote_that_ends_the_answer_is_one(check, answer, right):
    assert is_right(parse_check(check, "here"), answer, "Rewrite it.") is right


WHALES = 'Choose three keywords from "Whales send their songs across the ocean."'


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The keywords are: Whales send their songs across the ocean.", False),
        (f"{WHALES} whales, songs, ocean", False),
        ("1. Whales send their songs across the ocean\n2. Whales send their songs across the ocean", False),
        ("The keywords are: whales, songs, ocean.", True),
        ("1. whales\n2. songs\n3. ocean", True),
    ],
)
def test_a_copied_line_of_the_question_names_no_keywords(answer, right):
    check = {"type": "set", "items": ["whales", "songs", "ocean"]}
    assert is_right(parse_check(check, "here"), answer, WHALES) is right


def test_a_long_answer_is_read_as_often_as_a_short_one(monkeypatch):
    """A loop of small sums, which weak models write, must not take time that grows with its square."""
    read = []

    def spy(text):
        read.append(text)
        return numbers_of(text)

    monkeypatch.setattr(number_rule, "numbers_of", spy)
    times = []
    for size in (2, 60):
        read.clear()
        sums = " ".join(f"{i + 1} + 1 = {i + 2}." for i in range(size))
        assert is_right(parse_check(number(size + 1), "here"), sums, "How many apples?")
        times.append(len(read))
    assert times[0] == times[1]


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
