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
