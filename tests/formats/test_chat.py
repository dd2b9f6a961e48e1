import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from formats.reading import read_rows

from instruct.core.errors import ParamsError
from instruct.core.json_stream import parse_json
from instruct.core.records import read_examples, write_records
from instruct.formats.columns import USUAL, pick_fields
from instruct.formats.rows import Rows


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


USER, ANSWER = ("user", "Name a bird."), ("assistant", "A wren.")
RECORD = {"instruction": "Name a bird.", "input": "", "output": "A wren."}
DOUBLED = '{"type": "accept", "accept": ["x"], "accept": ["y"]}'


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


SHAREGPT = {"conversations": [{"from": "human", "value": "Name a bird."}, {"from": "gpt", "value": "A wren."}]}
IN_LISTS = [
    chat(USER, ANSWER),
    {"prompt": chat(USER)["messages"], "completion": chat(ANSWER)["messages"]},
    SHAREGPT,
    {**RECORD, "history": [["Another.", "An owl."]]},
    {**RECORD, "history": []},
]


@pytest.mark.parametrize("row", IN_LISTS)
def test_a_list_in_a_cell_of_a_csv_is_read_as_in_json(tmp_path, row):
    columns = replace(USUAL, turns="all")
    cells = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, cells)
        table.writeheader()
        table.writerow(cells)
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read_rows(tmp_path / "a.csv", columns) == read_rows(tmp_path / "a.jsonl", columns)


@pytest.mark.parametrize("row", [row for row in IN_LISTS if row.get("history") != []])
def test_a_list_as_python_prints_it_is_refused_with_its_column(row):
    cells = {name: str(value) for name, value in row.items()}
    (problem,) = pick_fields(cells, replace(USUAL, turns="all"), table=True).problems
    name = next(name for name, value in row.items() if isinstance(value, list))
    assert problem.startswith(f'"{name}": not JSON')


def test_a_prompt_in_messages_needs_a_completion_in_messages():
    messages = IN_LISTS[1]
    for row in (messages, {name: json.dumps(value) for name, value in messages.items()}):
        (problem,) = pick_fields({**row, "completion": "A text."}, USUAL).problems
        assert problem.startswith('"prompt" holds messages')
    (problem,) = pick_fields({**messages, "prompt": "A text."}, USUAL).problems
    assert problem.startswith('"completion" holds messages')


def test_messages_as_json_may_be_the_answer_to_a_question_in_words():
    row = {"prompt": "Write it as messages.", "completion": json.dumps(IN_LISTS[1]["completion"])}
    picked = pick_fields(row, USUAL)
    assert (picked.problems, picked.values["output"]) == ((), row["completion"])


def test_a_column_history_of_words_is_another_column_where_those_are_ignored():
    row = {"prompt": "Q", "completion": "A", "history": "changed in 2020"}
    picked = pick_fields(row, replace(USUAL, others="ignore"), table=True)
    assert (picked.problems, picked.left_out) == ((), ("columns",))
    assert pick_fields(row, USUAL, table=True).problems


@pytest.mark.parametrize("text", ['[{"name": "a"}]', "[[1, 2], [3, 4]]", '[{"role": "x"}] is a list in JSON.', "[a]"])
def test_a_list_that_is_no_chat_is_a_text(text):
    row = {"prompt": text, "completion": text}
    assert pick_fields(row, USUAL, table=True).values == {"instruction": text, "input": "", "output": text}


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
        '"messages" has 2 turns; set split.columns.turns: all, or first for the first one',
    )
    assert pick_fields(row, replace(USUAL, turns="first")).values == RECORD
    assert pick_fields(row, replace(USUAL, turns="all")).values == {
        "instruction": "Another.",
        "input": "",
        "output": "An owl.",
        "history": [RECORD],
    }


@pytest.mark.parametrize(
    ("system", "first", "more"),
    [
        ("keep", RECORD, {"system": "Be brief."}),
        ("instruction", {"instruction": "Be brief.", "input": "Name a bird.", "output": "A wren."}, {}),
        ("ignore", RECORD, {}),
    ],
)
def test_the_system_message_of_a_chat_of_several_turns_comes_before_the_first(system, first, more):
    row = chat(("system", "Be brief."), USER, ANSWER, ("user", "Another."), ("assistant", "An owl."))
    last = {"instruction": "Another.", "input": "", "output": "An owl."}
    picked = pick_fields(row, replace(USUAL, system=system, turns="all"))
    assert picked.values == {**last, "history": [first], **more}
    assert picked.left_out == (("system",) if system == "ignore" else ())


TEXTS, PROMPTS = {**RECORD, "system": "Be brief."}, {"prompt": "Name a bird.", "completion": "A wren."}
SPOKEN = chat(("system", "Be brief."), USER, ANSWER)
MORE = [("user", "Another."), ("assistant", "An owl.")]
SYSTEM_COLUMNS = [TEXTS, {**PROMPTS, "system": "Be brief."}, {**chat(USER, ANSWER), "system": "Be brief."}]


@pytest.mark.parametrize(
    "row", [*SYSTEM_COLUMNS, {**SHAREGPT, "system": "Be brief."}, {**SPOKEN, "system": "Be brief."}]
)
@pytest.mark.parametrize("system", ["keep", "instruction", "ignore", "refuse"])
def test_a_column_with_the_system_prompt_is_read_as_a_system_message(row, system):
    columns = replace(USUAL, system=system, others="ignore")
    picked, expected = pick_fields(row, columns), pick_fields(SPOKEN, columns)
    assert (picked.values, picked.left_out) == (expected.values, expected.left_out)
    assert bool(picked.problems) == bool(expected.problems) == (system == "refuse")


@pytest.mark.parametrize("turns", ["refuse", "first", "all"])
@pytest.mark.parametrize("system", ["keep", "instruction", "ignore"])
def test_turns_before_the_last_in_a_column_follow_the_settings_as_messages_do(turns, system):
    columns = replace(USUAL, turns=turns, system=system)
    expected = pick_fields(chat(("system", "Be brief."), USER, ANSWER, *MORE), columns)
    last = [
        {"instruction": "Another.", "input": "", "output": "An owl."},
        {"prompt": "Another.", "completion": "An owl."},
    ]
    for row in last:
        for history in ([RECORD], [["Name a bird.", "A wren."]]):
            picked = pick_fields({**row, "system": "Be brief.", "history": history}, columns)
            assert (picked.values, sorted(picked.left_out)) == (expected.values, sorted(expected.left_out))
            assert bool(picked.problems) == (turns == "refuse")


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({**RECORD, "system": 7}, "system"),
        ({**RECORD, "input": "x", "system": "Be brief."}, "system"),
        ({**RECORD, "history": [["a", 7]]}, "history[0].output"),
        ({**RECORD, "history": ["a"]}, "history[0]"),
        ({**RECORD, "history": [{**RECORD, "id": "7"}]}, "history[0]"),
        ({**RECORD, "history": "a"}, "history"),
        ({**chat(USER, ANSWER), "history": [["a", "b"]]}, "history"),
        ({**IN_LISTS[1], "history": [["a", "b"]]}, "history"),
        ({**PROMPTS, "system_prompt": "Be brief."}, "system_prompt"),
    ],
)
@pytest.mark.parametrize("turns", ["first", "all"])
def test_what_is_wrong_with_a_system_prompt_or_a_history_is_named_by_its_place(row, place, turns):
    (problem,) = pick_fields(row, replace(USUAL, turns=turns, system="instruction")).problems
    assert problem.startswith(f'"{place}"')


def test_two_different_system_prompts_are_refused():
    (problem,) = pick_fields({**SPOKEN, "system": "Be kind."}, USUAL).problems
    assert problem.startswith('"system"')


def test_a_column_called_system_may_hold_a_field():
    picked = pick_fields({**RECORD, "system": "Windows"}, replace(USUAL, kind="system"))
    assert picked.values == {**RECORD, "kind": "Windows"}


@pytest.mark.parametrize("history", [[RECORD], [["Name a bird.", "A wren."]]])
def test_a_record_of_our_own_form_may_hold_a_chat(history):
    row = {"instruction": "Another.", "input": "", "output": "An owl.", "system": "Be brief.", "history": history}
    columns = replace(USUAL, turns="all")
    assert pick_fields(row, columns) == pick_fields({**row, "history": [RECORD]}, columns)
    assert pick_fields(row, columns).problems == ()
    assert pick_fields({**RECORD, "system": "", "history": []}, USUAL).values == RECORD


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([USER, ("assistant", ""), USER, ANSWER], '"messages[1].content" is empty'),
        ([("user", " "), ANSWER, USER, ANSWER], '"messages[0].content" is empty'),
        ([("system", ""), USER, ANSWER, USER, ANSWER], '"messages[0].content" is empty'),
        ([USER, ANSWER, ANSWER], '"messages[2]" is of the assistant where the user must speak'),
        ([USER, ANSWER, USER], '"messages" must end with an answer of the assistant'),
        ([("system", "x")], '"messages" must end with an answer of the assistant'),
        ([USER, ANSWER, ("system", "x"), USER, ANSWER], '"messages[2]" is of the system where the user must speak'),
        ([USER, ANSWER, ("critic", "x")], '"messages[2].role" must be system, user or assistant, is "critic"'),
    ],
)
def test_what_is_wrong_with_a_turn_is_named_by_its_place(turns, problem):
    picked = pick_fields(chat(*turns), replace(USUAL, turns="all"))
    assert [line for line in picked.problems if line.startswith(problem)]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "12"},
        {"role": "observation", "content": "12"},
    ],
)
def test_tool_calls_are_named_as_not_supported(message):
    row = {"messages": [*chat(USER)["messages"], message, *chat(ANSWER)["messages"]]}
    (problem,) = pick_fields(row, replace(USUAL, turns="all")).problems
    assert "messages[1]" in problem and "tool calls are not supported" in problem


@pytest.mark.parametrize(("name", "value"), [("weight", 0), ("weight", 0.0), ("train", False), ("loss", False)])
def test_a_message_that_must_not_be_learnt_is_never_learnt(name, value):
    question, reply = chat(USER, ANSWER)["messages"]
    (problem,) = pick_fields({"messages": [question, {**reply, name: value}]}, USUAL).problems
    assert problem.startswith(f'"messages[1]" has "{name}"')


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_a_field_of_a_message_without_a_value_is_not_in_use(value):
    question, reply = chat(USER, ANSWER)["messages"]
    row = {"messages": [question, {**reply, "name": value, "tool_calls": value}]}
    assert pick_fields(row, USUAL).values == RECORD


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ('"history": [["a", "b"], {"instruction": "A", "instruction": "B", "output": "C"}]', "history[1]"),
        (f'"check": {DOUBLED}', "check"),
        (f'"check": {json.dumps(DOUBLED)}', "check"),
    ],
)
def test_a_key_that_appears_twice_within_a_record_is_named_by_its_place(field, place):
    row = parse_json(f'{{"instruction": "q", "input": "", "output": "a", {field}}}')
    (problem,) = pick_fields(row, replace(USUAL, turns="all")).problems
    assert problem.startswith(f'"{place}": "') and "appears twice" in problem


SEED = Path(__file__).parents[2].parent / "shared" / "data" / "seed" / "instruction-data.json"


@pytest.mark.skipif(not SEED.exists(), reason=f"{SEED} is not here")
def test_a_thousand_chats_are_the_same_records_as_sharegpt_and_as_messages(tmp_path):
    rows = json.loads(SEED.read_text(encoding="utf-8"))
    asked = ["\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    said = [[text, row["output"]] for text, row in zip(asked, rows, strict=True) if row["output"].strip()]
    chats = [[text for pair in said[i : i + 1 + i % 4] for text in pair] for i in range(1000)]
    systems = ["Answer briefly."] * 500 + [""] * 500

    def write(name, list_name, role, content, names):
        lines = []
        for texts, system in zip(chats, systems, strict=True):
            messages = [{role: "system", content: system}] if system else []
            messages += [{role: names[i % 2], content: text} for i, text in enumerate(texts)]
            lines.append(json.dumps({list_name: messages}))
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        columns = replace(USUAL, turns="all", messages=list_name, role=role, content=content)
        return list(Rows(tmp_path / name, columns))

    records = write("messages.jsonl", "messages", "role", "content", ("user", "assistant"))
    assert records == write("sharegpt.jsonl", "conversations", "from", "value", ("human", "gpt"))
    assert [len(record.turns) for record in records] == [len(texts) // 2 for texts in chats]
    assert [[text for turn in record.turns for text in turn if text] for record in records] == chats
    write_records(tmp_path / "again.json", records)
    assert read_examples(tmp_path / "again.json") == records
    assert list(Rows(tmp_path / "again.json", replace(USUAL, turns="all"))) == records


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": 7}, '"messages" must be a list of messages, is the number 7'),
        ({"messages": "[{]"}, '"messages": not JSON'),
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
            '"messages[0]" has "images", which records do not support',
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
