"""One way to find a held-out record again, whatever asks: augmentation, pairs or the page's feedback."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from rapidfuzz import fuzz
from ruamel.yaml import YAML

from instruct.augmentation.draft import Draft
from instruct.augmentation.guard import Guard
from instruct.core.errors import DataError
from instruct.core.held_out import HeldOut, normalise, prompt_of, whole_of
from instruct.core.pairs import Pair
from instruct.core.params import build
from instruct.core.records import Example, Turn, write_records
from instruct.pairs.checking import check_pairs
from instruct.pairs.settings import PairsParams
from instruct.serving.feedback import Feedback, MineRequest
from instruct.serving.problems import Problem

PARAMS = build(PairsParams, YAML(typ="safe").load(Path(__file__).parents[2] / "params.yaml")["pairs"], where="pairs")
HELD = Example(
    id="held", instruction="What is a caf\u00e9 au lait?", input="Answer briefly.", output="Milk and coffee."
)
SAME = (
    ("What is a caf\u00e9 au lait?", "Answer briefly."),
    ("  WHAT IS a cafe\u0301 au\tlait? ", "answer briefly."),
    ("\uff37hat is a caf\u00e9 au lait?", "Answer briefly."),
    ("What is a caf\u00e9 au lait? Answer briefly.", ""),
)
WRAPPED = (
    ("Please help me with this task: What is a caf\u00e9 au lait?", "Answer briefly."),
    ("What is a caf\u00e9 au lait? Thank you very much in advance!", "Answer briefly."),
    ("Question: What is a caf\u00e9 au lait? Answer briefly.\nAnswer:", ""),
)
OTHER = ("How tall is the Eiffel Tower in metres?", "")


def page_keeps(root, asked) -> bool:
    for part in ("val", "test"):
        write_records(root / f"data/split/{part}.json", [HELD])
    try:
        Feedback({}, 99.0, root).keep(
            MineRequest(instruction=asked.instruction, input=asked.input, output="Tea."), None
        )
    except Problem as problem:
        assert problem.code == "held_out" and HELD.id in str(problem)
        return False
    return True


def example(instruction, input="", output="?", **others):
    return Example(id="new", instruction=instruction, input=input, output=output, **others)


@pytest.mark.parametrize(("asked", "found"), [*((one, True) for one in SAME), (OTHER, False)])
def test_augmentation_pairs_and_feedback_refuse_the_same_prompts(tmp_path, asked, found):
    new = example(*asked)
    draft = Draft(method="magpie", parent=None, instruction=new.instruction, input=new.input, output="?")
    guard = Guard([], [HELD], 99.0)
    assert guard.refuse(draft.as_example(set()), replaces=False) == ("leaked" if found else "")

    pair = Pair(**{**vars(new), "output": "yes"}, rejected="not at all")
    other = replace(pair, instruction="Name a metal.", input="")
    params = replace(PARAMS, max_similarity=99.0)
    assert check_pairs([pair, other], [HELD], params).dropped["leaked"] == found
    if found:
        with pytest.raises(DataError, match="resembles the held-out record held"):
            check_pairs([pair, other], [HELD], replace(params, on_leak="raise"))

    assert page_keeps(tmp_path, new) != found


@pytest.mark.parametrize("asked", WRAPPED)
def test_pairs_and_feedback_refuse_a_wrapped_prompt_whatever_its_answer(tmp_path, asked):
    new = example(*asked)
    params = replace(PARAMS, max_similarity=99.0)
    other = Pair(**{**vars(new), "instruction": "Name a metal.", "input": "", "output": "yes"}, rejected="not at all")
    for one in (
        new,
        replace(new, history=(Turn("Hello!", "", "Hi."),)),
        replace(HELD, history=(Turn("Hi", "", "Yes?"),)),
    ):
        pair = Pair(**{**vars(one), "output": "yes"}, rejected="not at all")
        assert check_pairs([pair, other], [HELD], params).dropped["leaked"] == 1
        with pytest.raises(DataError, match=f"record {HELD.id}"):
            check_pairs([pair, other], [HELD], replace(params, on_leak="raise"))
    assert not page_keeps(tmp_path, new)


@pytest.mark.parametrize("text_of", [prompt_of, whole_of])
def test_the_most_similar_record_is_that_of_comparing_with_each(text_of):
    rng = random.Random(5)
    words = ["red", "green", "blue", "one", "two", "Three", "four  ", "\u00c9t\u00e9"]
    records = [
        Example(id=str(i), **{name: " ".join(rng.choices(words, k=3)) for name in ("instruction", "input", "output")})
        for i in range(40)
    ]
    held_out = HeldOut(records[:20], 70.0, text_of)
    seen = set()
    for one in records[20:] * 2:
        similarities = [fuzz.ratio(text_of(one), text_of(other)) for other in records[:20]]
        found = held_out.find(one)
        seen.add(found is None)
        assert (found[1] if found else None) == (max(similarities) if max(similarities) >= 70.0 else None)
        assert found is None or fuzz.ratio(text_of(one), text_of(found[0])) == found[1]
    assert seen == {True, False}


def test_a_chat_is_compared_with_all_that_was_said_before():
    told = replace(HELD, history=(Turn("Name a drink.", "", "Tea, which comes from China and is old."),))
    assert HeldOut([told], 99.0).find(HELD) is None and HeldOut([told], 99.0).find(told) == (told, 100.0)
    assert normalise("A\n\n b") == "a b" and prompt_of(example("A", "b")) == "a b"
    assert whole_of(example("A", "b", "C")) == "a b c"


@pytest.mark.parametrize("text_of", [prompt_of, whole_of])
def test_a_long_system_prompt_hides_neither_a_difference_nor_a_leak(text_of):
    rules = "You are the assistant of a company with many rules. " * 40
    held = replace(HELD, system=rules)
    other = replace(HELD, instruction=OTHER[0], input="", output="330 metres.")
    held_out = HeldOut([replace(other, id="other"), held], 90.0, text_of)
    same, dated, none = (replace(HELD, system=system) for system in (rules, f"{rules}Today is Monday.", ""))
    assert [held_out.find(one) for one in (same, dated, none)] == [(held, 100.0)] * 3
    assert HeldOut([held], 90.0, text_of).find(replace(other, system=rules)) is None
    assert held_out.find(replace(HELD, system="A text about cats, which sleep all day. " * 40)) is None


def test_questions_under_two_short_system_prompts_are_compared_with_them():
    held = replace(HELD, system="You are a pirate.", instruction=HELD.instruction * 9)
    assert HeldOut([held], 90.0).find(replace(held, system="You are a cook.")) is not None


def test_the_same_words_under_another_system_prompt_are_another_question():
    held = replace(HELD, system="A text about tea. " * 20)
    wrapped = example("Read the text above. What is a caf\u00e9 au lait?", "Answer briefly.")
    held_out = HeldOut([held], 99.0)
    assert [held_out.wrapped_in(replace(wrapped, system=one)) for one in ("", held.system)] == [held, held]
    assert held_out.wrapped_in(replace(wrapped, system="A text about cats, which sleep all day. " * 20)) is None
    assert held_out.wrapped_in(wrapped, []) is None
