import random
from dataclasses import replace
from difflib import SequenceMatcher

import pytest

from instruct.baselines.settings import BaselineParams
from instruct.baselines.shots import ShotsAsText, choose_shots, most_that_fit
from instruct.core.errors import ParamsError
from instruct.core.records import Example, Turn
from instruct.text.prompts import TEMPLATES, as_text

PARAMS = BaselineParams(systems=("few-shot",), shots=5, seed=7)


def example(id_, instruction, input="", output="x", group=""):
    return Example(id=id_, instruction=instruction, input=input, output=output, group=group)


TRAIN = [example(f"t{i}", f"{i} {'abcdefghij'[i % 10] * 9}", group=f"g{i // 2}") for i in range(40)]
TEST = [example(f"q{i}", f"{i + 500} {'klmno'[i] * 9}") for i in range(5)]


def test_the_draw_is_of_the_seed_and_the_ids_whatever_the_order():
    chosen = choose_shots(TRAIN, TEST, PARAMS)
    shuffled = random.Random(1).sample(TRAIN, len(TRAIN))
    assert choose_shots(shuffled, TEST, PARAMS) == chosen
    assert choose_shots(TRAIN, TEST, replace(PARAMS, seed=8)) != chosen


def test_a_new_record_takes_at_most_one_place():
    chosen = choose_shots(TRAIN, TEST, PARAMS)
    for i in range(50):
        now = choose_shots([*TRAIN, example(f"new{i}", "Something else.")], TEST, PARAMS)
        assert len({one.id for one in chosen} - {one.id for one in now}) <= 1


def test_no_two_shots_are_of_one_group():
    chosen = choose_shots(TRAIN, TEST, replace(PARAMS, shots=20))
    assert len(chosen) == len({one.group for one in chosen}) == 20


def test_no_shot_resembles_a_test_record():
    near = [replace(one, id=f"near{one.id}", instruction=one.instruction + ".") for one in TEST]
    assert all(
        SequenceMatcher(None, a.instruction, b.instruction).ratio() > 0.9 for a, b in zip(near, TEST, strict=True)
    )
    assert choose_shots(near, TEST, PARAMS) == []
    chosen = choose_shots([*near, *TRAIN], TEST, replace(PARAMS, shots=20))
    assert len(chosen) == 20 and not {one.id for one in near} & {one.id for one in chosen}


@pytest.mark.parametrize(("room", "number"), [(9, 0), (10, 1), (49, 4), (50, 5), (999, 5)])
def test_as_many_shots_as_the_longest_prompt_leaves_room_for(room, number):
    assert most_that_fit(5, lambda count: 10 * count, room) == number


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"systems": ()}, "systems"),
        ({"systems": ("echo", "echo")}, "systems"),
        ({"shots": 0}, "shots"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, field):
    with pytest.raises(ParamsError, match=f"^{field} must be"):
        replace(PARAMS, **changes)


# As text, for a model that knows no turns.


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_the_answered_examples_then_the_question_with_one_opening(name):
    template = TEMPLATES[name]
    shots = [example("a", "Name a city.", output="Paris"), example("b", "Add.", "1 and 2", "3")]
    way = ShotsAsText(template=template, shots=shots)
    text = as_text(way.prompt([Turn("Name a river.")]))
    assert text.startswith(as_text(way.prefix_pieces)) and text.startswith(template.prefix)
    asked = [template.render(one.instruction, one.input).removeprefix(template.prefix) for one in shots]
    places = [text.index(part) for part in (asked[0], "Paris", asked[1], "\n3", "Name a river.")]
    assert places == sorted(places)
    assert text.endswith(template.render("Name a river.").removeprefix(template.prefix))
    assert text.count(template.before_instruction) == 3
    opening = template.prefix.removesuffix(template.before_instruction)
    assert not opening or text.count(opening) == 1
    # What a model would write after its answer is the next header: a stop string ends it there.
    assert any(stop in template.before_instruction for stop in way.stop_strings)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_record_with_its_own_system_prompt_has_the_form_of_a_chat_of_as_many_turns(name):
    """The examples stand where earlier turns of the same chat would."""
    template = TEMPLATES[name]
    shots = [example("a", "Name a city.", output="Paris"), example("b", "Add.", "1 and 2", "3")]
    text = as_text(ShotsAsText(template=template, shots=shots).prompt([Turn("Name a river.")], "Be brief."))
    earlier = [Turn(one.instruction, one.input, one.output) for one in shots]
    if template.before_system:
        assert text == as_text(template.prompt([*earlier, Turn("Name a river.")], "Be brief."))
    else:
        asked = as_text(template.prompt([Turn("Name a river.")], "Be brief.")).removeprefix(template.prefix)
        assert text.endswith(asked) and text.count("Be brief.") == 1


def test_without_shots_the_text_is_that_of_the_template():
    for template in TEMPLATES.values():
        way = ShotsAsText(template=template, shots=[])
        assert as_text(way.prompt([Turn("Add.", "1")])) == template.render("Add.", "1")
