import pytest
from quality_records import example, found

from instruct.quality.answers import find_in_answer


def findings(output, instruction="Name a bird.", input=""):
    return found(find_in_answer(example(output, instruction, input)))


@pytest.mark.parametrize(
    "output",
    [
        "...",
        "…",
        "---",
        "\u200b",
        "\u2060 \u200b",
        "N/A",
        "n/a.",
        "<nooutput>",
        "No output",
        "[no answer]",
        "[TODO]",
        "(tbd).",
        "<null>",
        "[ NaN ]",
    ],
)
def test_an_answer_that_says_nothing_is_empty(output):
    assert findings(output) == ["empty_answer"]


@pytest.mark.parametrize(
    ("output", "instruction"),
    [
        ("None", "Which of 4, 6 and 8 is prime?"),
        ("Undefined", "What is 1 / 0?"),
        ("?", "Which mark ends a question?"),
        (";", "Which mark joins two main clauses?"),
        ("+", "Which sign is missing? 2 _ 2 = 4"),
        ("√", "Write the sign of the square root."),
        ("7", "What is 3 + 4?"),
        ("ё", "Name a letter."),
        ("NaN", "What does JavaScript print for 0 / 0?"),
        ("NULL", "What does SQL give for 1 = an unknown value?"),
        ("Null", "Wie viele Monde hat die Venus?"),
        ("Todo", "Completa la frase: no es oro lo que reluce, pero ..."),
        ("TBD.", "Abbreviate: to be determined."),
        ("[NaN]", "What does JavaScript print for a list of 0 / 0, [Infinity] or [NaN]?"),
        ("...", "Which mark shows an omission, ; or ... ?"),
        ("🦉", "Answer with one emoji."),
    ],
)
def test_a_short_answer_that_says_something_is_not_empty(output, instruction):
    assert findings(output, instruction) == ["one_word_answer"]


@pytest.mark.parametrize("output", ["Paris", " Paris\n", "Paris.", "twenty-one", "1,024", "https://example.com/a"])
def test_one_word_is_what_has_no_blank_inside(output):
    assert findings(output) == ["one_word_answer"]


@pytest.mark.parametrize(
    "output",
    [
        "設定を開き、「リセット」を選んでください。",
        "请打开设置，然后点击重置。",
        "เปิดการตั้งค่าแล้วกดรีเซ็ต",
        "သင်၏စကားဝှက်ကိုပြန်သတ်မှတ်ပါ။",
        "បើកការកំណត់",
    ],
)
def test_a_sentence_in_a_script_without_blanks_is_not_one_word(output):
    assert findings(output) == []


def test_two_words_are_no_finding():
    assert findings("An owl.") == []


@pytest.mark.parametrize(
    ("output", "instruction", "input", "what"),
    [
        ("Name a bird.", "Name a bird.", "", "is the instruction"),
        ("She  enjoys\nbooks.", "Edit the sentence.", "She enjoys books.", "is the input"),
        ("Edit it: She reads.", "Edit it", "She reads.", "is instruction and input"),
        ("What is the capital of Peru? Lima.", "What is the capital of Peru?", "", "begins with the instruction"),
        ("秘鲁的首都是哪个城市？利马。", "秘鲁的首都是哪个城市？", "", "begins with the instruction"),
    ],
)
def test_an_answer_that_repeats_the_question_is_found_and_says_what_it_repeats(output, instruction, input, what):
    assert [hit.what for hit in find_in_answer(example(output, instruction, input))] == [what]


@pytest.mark.parametrize(
    ("output", "instruction", "input"),
    [
        ("The cat sat.", "Add the punctuation.", "the cat sat"),
        ("Paris", "Fix the capital letter.", "paris"),
        ("Name a bird.", "Write an order with two nouns.", ""),
        ("Say it loudly and clearly.", "Say it", ""),
        ("说它很好。", "说它", ""),
    ],
)
def test_a_change_of_case_or_marks_alone_is_an_answer(output, instruction, input):
    assert "repeats_question" not in findings(output, instruction, input)


def test_an_answer_that_loops_is_found():
    assert findings("It was good and " * 9) == ["repetition"]
    assert findings("我不知道。" * 9) == ["repetition"]
