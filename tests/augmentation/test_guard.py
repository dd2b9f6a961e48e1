"""Which new records would give a test question away."""

from dataclasses import replace

import pytest

from instruct.augmentation.guard import Guard
from instruct.augmentation.rewriting import PASSIVE_WISH
from instruct.core.records import Example

MOUNTAIN = Example(id="t", instruction="Name the tallest mountain on Earth.", input="", output="Everest.")
SENTENCE = Example(
    id="s", instruction="Make it negative.", input="The cat likes fish.", output="The cat dislikes fish."
)
SHORT = Example(id="u", instruction="Define wren.", input="", output="A bird.")
WRAPPERS = [
    "Can you tell me: {}",
    "{} Answer in one word.",
    "Please answer this question for a quiz that I am writing. {} Thank you very much in advance!",
    "Q: {}\nA:",
]


def guard() -> Guard:
    return Guard([], [MOUNTAIN, SENTENCE, SHORT], 90.0)


def wrapped(one: Example, wrapper: str, **fields) -> Example:
    return replace(one, id="new", instruction=wrapper.format(one.instruction), **fields)


@pytest.mark.parametrize("held_out", [MOUNTAIN, SENTENCE], ids=["alone", "with input"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_held_out_question_in_a_wrapper_is_a_leak(held_out, wrapper):
    assert guard().refuse(wrapped(held_out, wrapper), replaces=False) == "leaked"
    joined = wrapper.format(f"{held_out.instruction} {held_out.input}")
    assert guard().refuse(replace(held_out, id="new", instruction=joined, input=""), replaces=False) == "leaked"


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("output", ["Everest.", "everest", " Everest!"])
def test_the_answer_may_differ_in_its_form(wrapper, output):
    assert guard().refuse(wrapped(MOUNTAIN, wrapper, output=output), replaces=False) == "leaked"


@pytest.mark.parametrize(
    ("question", "wrapper", "answer"),
    [
        ("法国的首都是哪个城市?", "请你认真思考之后,用一句话回答下面这个地理问题:{}", "巴黎"),
        ("法国的首都是哪个城市。", "请回答{}这个问题。谢谢你的帮助,我正在准备一个测验。", "巴黎。"),
        ("日本で一番高い山の名前を教えてください。", "次の質問に一言で答えてください。テスト用です。{}", "富士山"),
    ],
)
def test_a_question_in_a_script_without_blanks_has_words(question, wrapper, answer):
    held_out = Example(id="t", instruction=question, input="", output=answer)
    new = Example(id="new", instruction=wrapper.format(question.rstrip("。")), input="", output=answer.rstrip("。"))
    assert Guard([], [held_out], 90.0).refuse(new, replaces=False) == "leaked"


@pytest.mark.parametrize(
    ("input_", "other"),
    [
        ("Fun", "The orchestra gave a stunning performance; it is a fundamental work of our time"),
        ("7", "The year is 1978, and all of the numbers are in a long list"),
        ("Hot", "Hot, as in the hottest summer that anyone in this town can remember"),
        ("the cat", "They breathe categories in every lecture that they give to us"),
        ("fun run", "The fundamental run, or a fun running event in the old town"),
    ],
)
def test_a_short_input_within_another_is_no_leak(input_, other):
    held_out = Example(id="t", instruction="Classify the sentiment of the text.", input=input_, output="Positive")
    new = replace(held_out, id="new", input=other)
    assert Guard([], [held_out], 90.0).refuse(new, replaces=False) == ""


def test_a_one_word_input_under_a_wrapped_instruction_is_a_leak():
    held_out = Example(id="t", instruction="Classify the sentiment of the text.", input="Fun", output="Positive")
    new = wrapped(held_out, WRAPPERS[2], input="fun.")
    assert Guard([], [held_out], 90.0).refuse(new, replaces=False) == "leaked"


def test_an_instruction_of_one_word_may_be_in_a_wrapper():
    held_out = replace(SENTENCE, instruction="Negate:", output="The cat dislikes fish.")
    new = wrapped(held_out, "Please negate this sentence for a quiz that I am writing, and thank you very much!")
    assert Guard([], [held_out], 90.0).refuse(new, replaces=False) == "leaked"


def test_a_held_out_prompt_of_marks_alone_is_in_no_other():
    marks = Example(id="t", instruction="?", input="!", output="Everest.", history=(("?", "!"), ("?", "...")))
    assert Guard([], [marks], 90.0).refuse(replace(MOUNTAIN, id="new"), replaces=False) == ""


def test_our_own_wish_hides_no_question_whatever_its_answer():
    one = wrapped(MOUNTAIN, f"{{}} {PASSIVE_WISH}", output="Everest is what the tallest mountain is called.")
    assert guard().refuse(one, replaces=False) == "leaked"


@pytest.mark.parametrize(
    "one",
    [
        wrapped(MOUNTAIN, "{} Then name the deepest sea.", output="Everest, and the Philippine Sea."),
        wrapped(SHORT, "A question for a child of ten: {}"),
        replace(MOUNTAIN, id="new", instruction="Name a tall mountain in Asia that many people climb."),
        replace(MOUNTAIN, id="new", instruction="Name it."),
        wrapped(replace(MOUNTAIN, instruction=""), PASSIVE_WISH),
    ],
    ids=["another answer", "a short question", "another question", "a part of it", "nothing but our wish"],
)
def test_other_records_are_no_leak(one):
    assert guard().refuse(one, replaces=False) == ""
