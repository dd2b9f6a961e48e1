import json
from dataclasses import replace

import pytest

from instruct.core.errors import ParamsError
from instruct.formats.columns import USUAL, pick_fields


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


USER, ANSWER = ("user", "Name a bird."), ("assistant", "A wren.")
RECORD = {"instruction": "Name a bird.", "input": "", "output": "A wren."}


@pytest.mark.parametrize(
    "row",
    [
        chat(USER, ANSWER),
        chat(("human", "Name a bird."), ("gpt", "A wren.")),
        {"prompt": "Name a bird.", "completion": "A wren."},
        {"prompt": chat(USER)["messages"], "completion": chat(ANSWER)["messages"]},
        {"messages": json.dumps(chat(USER, ANSWER)["messages"])},
        RECORD,
    ],
)
def test_every_layout_gives_the_same_record(row):
    picked = pick_fields(row, USUAL)
    assert (picked.values, picked.problems) == (RECORD, ())


def test_sharegpt_is_a_matter_of_names():
    row = {
        "conversations": [{"from": "human", "value": "Name a bird."}, {"from": "gpt", "value": "A wren."}],
        "id": "7",
    }
    columns = replace(USUAL, messages="conversations", role="from", content="value")
    assert pick_fields(row, columns).values == {**RECORD, "id": "7"}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("instruction", {"instruction": "Translate to French.", "input": "Name a bird.", "output": "A wren."}),
        ("ignore", RECORD),
        ("refuse", {}),
    ],
)
def test_system_message_goes_where_the_settings_say(system, expected):
    picked = pick_fields(chat(("system", "Translate to French."), USER, ANSWER), replace(USUAL, system=system))
    assert picked.values == expected
    assert bool(picked.problems) == (not expected)


def test_several_turns_are_refused_or_cut_as_the_settings_say():
    row = chat(USER, ANSWER, ("user", "Another."), ("assistant", "An owl."))
    assert pick_fields(row, USUAL).problems == (
        '"messages" holds 2 turns, a record holds one; set split.columns.turns: first, or cut it',
    )
    assert pick_fields(row, replace(USUAL, turns="first")).values == RECORD


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": 7}, '"messages" must be a list of messages, is the number 7'),
        ({"messages": "[{]"}, "not JSON"),
        ({"messages": []}, '"messages" must end with an answer'),
        ({"messages": ["a"]}, '"messages[0]" must be an object with role and content, is text'),
        (chat(USER), '"messages" must end with an answer'),
        (chat(ANSWER), '"messages[0]" is of the assistant where the user must speak'),
        (chat(USER, USER), '"messages[1]" is of the user where the assistant must speak'),
        (chat(USER, ("system", "x"), ANSWER), '"messages[1]" is of the system where the assistant must speak'),
        (chat(USER, ("tool", "x")), '"messages[1].role" must be system, user or assistant, is "tool"'),
        (chat(USER, (None, "x")), '"messages[1].role" must be system, user or assistant, is null'),
        (chat(USER, ("assistant", None)), '"messages[1].content" must be text, is null'),
        (chat(USER, ("assistant", " ")), '"messages[1].content" is empty'),
        (chat(("user", [{"type": "text"}]), ANSWER), '"messages[0].content" must be text, is a list'),
        (
            {"messages": [{**chat(USER)["messages"][0], "images": ["x.png"]}, *chat(ANSWER)["messages"]]},
            '"messages[0]" holds "images", which a record has no place for',
        ),
        ({"prompt": "a"}, '"completion" is missing; add it'),
        ({"prompt": "a", "completion": ""}, '"completion" is empty'),
        ({"prompt": "a", "completion": ["b"]}, '"completion" must be text, is a list'),
        ({**chat(USER, ANSWER), **RECORD}, "holds the columns of alpaca and chat at once"),
        ({**chat(USER, ANSWER), "source": "x"}, '"source" is not a field of a record'),
    ],
)
def test_what_is_wrong_with_a_chat_is_named_by_its_place(row, problem):
    picked = pick_fields(row, USUAL)
    assert picked.problems[0].startswith(problem)


def test_a_chosen_layout_reads_its_own_columns_alone():
    row = {**chat(USER, ANSWER), "prompt": "x", "completion": "y"}
    columns = replace(USUAL, layout="chat", others="ignore")
    assert pick_fields(row, columns).values == RECORD
    assert pick_fields(row, replace(columns, layout="prompt")).values["output"] == "y"


def test_empty_cells_of_optional_columns_are_none_in_tables_alone():
    row = {**RECORD, "id": "", "kind": ""}
    assert pick_fields(row, USUAL, table=True).values == RECORD
    assert pick_fields(row, USUAL).problems == ('"id" is empty; fill it, or leave it out to have one made',)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"input": "output"}, 'columns name the column "output" for two fields'), ({"output": ""}, "columns.output")],
)
def test_columns_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ParamsError, match=message):
        replace(USUAL, **changes)
