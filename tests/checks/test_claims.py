"""What denies a right answer, what rivals it, and what only describes it, in answers such as small models give."""

import pytest

from instruct.checks import claims
from instruct.checks.rules import is_right
from instruct.checks.schema import parse_check
from instruct.checks.words import words_of

FRANCE = "What is the capital of France?"


def judge(check, question, answer):
    return is_right(parse_check(check, "here"), answer, question)


def accept(*texts):
    return {"type": "accept", "accept": list(texts)}


@pytest.mark.parametrize(
    "answer",
    [
        "Lyon is the capital of France, and Paris is its largest city.",
        "Marseille. Paris is a common wrong answer.",
        "It is false that Paris is the capital.",
        "It is false that the capital of France is Paris.",
        "Anything but Paris.",
        "It used to be Paris.",
        "Paris is incorrect.",
        "Instead of Paris it is lyon",
        "Non-Paris",
    ],
)
def test_an_answer_that_is_called_wrong_or_is_not_what_was_asked_is_wrong(answer):
    assert not judge(accept("Paris"), FRANCE, answer)


@pytest.mark.parametrize(
    ("check", "question", "answer"),
    [
        (accept("Paris"), FRANCE, "The capital of France is Paris, which is located on the Seine."),
        (accept("Paris"), FRANCE, "It is Paris rather than Lyon."),
        (accept("Paris"), FRANCE, "Paris, not Lyon."),
        (accept("South America"), "Where are the Andes?", "In South America, which is south of Panama."),
        (accept("plants"), "What does a botanist study?", "She studies plants, which grow, flower, and die."),
        (accept("Bonn"), "What was the capital before 1990?", "It used to be Bonn."),
        (accept("recieve"), "Which word has a mistake?", "recieve is incorrect."),
        (accept("recieve"), "Which word is spelled incorrectly?", "recieve is incorrect."),
        (accept("recieve"), "Find the typo.", "recieve is wrong."),
        (accept("don't"), "Which word needs changing?", "don't is incorrect"),
        (accept("Edo"), "What is the old name of Tokyo?", "It used to be Edo."),
        (accept("Peru"), "Whose capital is Lima?", "It is not wrong to say Peru."),
        (accept("fewer"), "Less or fewer apples?", 'Say "fewer" instead of "less".'),
        (accept("Jupiter"), "Which planet is the largest?", "Earth is the largest rocky one, but Jupiter is larger."),
        (accept("Lima"), "Capital of Peru?", "Peru is a country whose capital is Lima."),
    ],
)
def test_a_clause_about_the_answer_and_a_denied_rival_leave_it_right(check, question, answer):
    assert judge(check, question, answer)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Your full name, postal address, and phone number.", True),
        ("name, address, phone", True),
        ("name, address, zinc with phone", False),
        ("name, address, phone and birthday", False),
    ],
)
def test_an_item_of_a_list_may_have_words_of_its_own(answer, right):
    check = {"type": "set", "items": ["name", "address", "phone"]}
    assert judge(check, "Which details are needed?", answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("give, donate, and help", False),
        ("donate: to give; donate: to provide; donate: to offer", False),
        ("donate: to give; donate: to give; donate: to give", True),
        ("Simply, briefly, and shortly: give", True),
        ("Give, in one verb, and in short", True),
    ],
)
def test_no_item_of_a_list_in_a_line_rivals_the_answer(answer, right):
    """The neighbours of "give" are the question's words, which alone are no rivals."""
    assert judge(accept("give"), 'How else could you say "donate" with one short verb?', answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("rubber: electrical; fabric: insulator", False),
        ("rubber: insulator; copper: conductor", True),
        ("- rubber: insulator\n- copper: conductor", True),
        ("rubber: conductor\nglass: insulator", False),
        ("Glass is an insulator.", False),
        ("Rubber is an insulator. Copper is a conductor.", True),
        ("Rubber is an insulator. Rubber is a conductor.", False),
        ("Insulator. Conductor is a better label.", False),
        ("The label is an insulator.", True),
        ("Material: rubber\nType: insulator", True),
        ("rubber:\ninsulator", True),
    ],
)
def test_a_label_counts_only_if_it_is_said_of_what_the_question_asks(answer, right):
    check = {"type": "one_of", "answer": "insulator", "options": ["conductor", "insulator"]}
    assert judge(check, "Is this material a conductor or an insulator?\nrubber", answer) is right


@pytest.mark.parametrize(
    ("check", "question", "answer", "right"),
    [
        (accept("salmon"), 'The plural of "salmon"?', 'The plural of "salmon" is "salmonine".', False),
        (accept("salmon"), 'The plural of "salmon"?', 'The plural of "salmon" is "salmon".', True),
        (accept("live"), "A verb for reside?", "reside: to live; to exist", False),
        (accept("live"), "A verb for reside?", "to live", True),
    ],
)
def test_a_quote_after_is_and_an_infinitive_beside_the_answer_are_claims(check, question, answer, right):
    assert judge(check, question, answer) is right


@pytest.mark.parametrize(("text", "right"), [("settings", True), ("Settings", False)])
def test_other_capitalised_words_are_rivals_only_of_a_name(text, right):
    """The example of docs/guides/your-data.md."""
    answer = "Open Settings, then Security, and press Reset."
    assert judge(accept(text), "Which menu holds the password reset?", answer) is right


WHALES = 'Choose three keywords from "Whales send their songs across the ocean."'


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('The keywords of "Whales send their songs across the ocean" are whales, songs, and ocean.', True),
        ('The keywords are "Whales send their songs across the ocean."', False),
        ("The whales send their songs across the ocean with a device.", False),
    ],
)
def test_keywords_must_be_apart_from_a_copy_of_their_text(answer, right):
    check = {"type": "set", "items": ["whales", "songs", "ocean"]}
    assert judge(check, WHALES, answer) is right


def number(value, unit):
    return {"type": "number", "value": value, "unit": unit}


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        (number(49.9, "euros"), "It costs 49.90 euros including 19 % VAT.", True),
        (number(19, "percent"), "including 19 % VAT", True),
        (number(14, "days"), "within two weeks (14 days)", True),
        (number(14, "days"), "within 3 days (14 days)", False),
        (number(14, "days"), "14 days including 15 days", False),
        (number(5, "euros"), "5 euros excl. shipping of 3 euros", False),
    ],
)
def test_an_included_share_and_a_converted_number_are_asides(check, answer, right):
    assert judge(check, "How much?", answer) is right


@pytest.mark.parametrize("language", ["", "python3", "c++", "c#", "objective-c", "shell-session"])
def test_code_may_be_in_a_fence_of_any_language(language):
    check = {"type": "exact", "accept": ["int main(){}"], "strict": True}
    assert judge(check, "Write it.", f"```{language}\nint main(){{}}\n```")


def test_the_denials_of_a_long_answer_are_looked_for_once(monkeypatch):
    """A loop of right answers, which weak models write, must not take time that grows with its square."""
    read = []

    def spy(text):
        read.append(text)
        return words_of(text)

    monkeypatch.setattr(claims, "words_of", spy)
    for size in (20, 2000):
        answer = "Lima is it. " * size
        read.clear()
        claims.is_denied(answer, [(3 * i, 3 * i + 1) for i in range(size)], ["Lima"], "Capital of Peru?")
        assert sum(map(len, read)) <= 3 * len(answer)
