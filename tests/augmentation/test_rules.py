import pytest

from instruct.augmentation.draft import Draft, Skipped, choose
from instruct.augmentation.rules import reword
from instruct.core.records import Example


def example(instruction, input_="", id_="1"):
    return Example(id=id_, instruction=instruction, input=input_, output="o", kind="k", group="g")


def wordings(instruction, input_=""):
    drafts = [reword(example(instruction, input_, str(i)), 5) for i in range(60)]
    assert all(isinstance(draft, Draft) for draft in drafts)
    assert {draft.output for draft in drafts} == {"o"}
    return {(draft.instruction, draft.input) for draft in drafts}


def test_an_order_is_asked_politely_or_on_one_line():
    assert wordings("Rewrite the sentence in the past tense.", "I run.") == {
        ("Please rewrite the sentence in the past tense.", "I run."),
        ("Could you rewrite the sentence in the past tense?", "I run."),
        ("Rewrite the sentence in the past tense: I run.", ""),
    }


def test_an_order_without_input_or_with_several_lines_of_it_keeps_them():
    assert wordings("Name a bird") == {("Please name a bird.", ""), ("Could you name a bird?", "")}
    assert {input_ for _, input_ in wordings("Sort these.", "b\na")} == {"b\na"}


@pytest.mark.parametrize(
    "instruction",
    ["What is a bird?", "Please name a bird.", "Read this. Then answer.", "Fix: teh", "Nobody names it.", "Name it!"],
)
def test_what_is_no_single_order_is_left_alone(instruction):
    assert reword(example(instruction, "x"), 5) == Skipped(reason="unsuitable")


def test_a_child_names_its_parent_and_stays_in_its_group_and_kind():
    draft = reword(example("Name a bird."), 5)
    child = draft.as_example(set())
    assert (child.parent, child.group, child.kind, child.origin) == ("1", "g", "k", "augment:rules")
    assert draft.as_example({child.id}).id == f"{child.id}-2"
    alone = Draft(
        method="rules",
        parent=Example(id="7", instruction="a", input="", output="b"),
        instruction="c",
        input="",
        output="b",
    ).as_example(set())
    assert alone.group == "7"


def test_parents_are_chosen_by_their_ids_so_that_others_do_not_push_them_about():
    many = [example("a", id_=str(i)) for i in range(100)]
    chosen = choose(many, 10, "rules", 1)
    assert len(chosen) == 10
    assert [e for e in many if e in chosen] == chosen
    assert choose(list(reversed(many)), 10, "rules", 1) == chosen[::-1]
    assert choose(many, 10, "passive", 1) != chosen
    assert choose(many, 0, "rules", 1) == many
    assert set(e.id for e in choose(chosen, 9, "rules", 1)) < {e.id for e in chosen}
