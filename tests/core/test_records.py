import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct.core.errors import DataError
from instruct.core.records import (
    Example,
    Ids,
    Response,
    Turn,
    check_examples,
    find_problems,
    read_examples,
    read_responses,
    write_records,
)

RECORD = {"instruction": "Name a bird.", "input": "", "output": "A wren."}


def make_ids(rows):
    ids = Ids()
    return [ids.make(row) for row in rows]


def write(tmp_path, rows):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def without(*names):
    return {name: value for name, value in RECORD.items() if name not in names}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ("text", ["must be an object with instruction, input, output, is text"]),
        (["a"], ["must be an object with instruction, input, output, is a list"]),
        (None, ["must be an object with instruction, input, output, is null"]),
        (7, ["must be an object with instruction, input, output, is the number 7"]),
        (True, ["must be an object with instruction, input, output, is true or false"]),
        (without("instruction"), ['"instruction" is missing; add it']),
        (without("input"), ['"input" is missing; add it (it may be "")']),
        (without("output"), ['"output" is missing; add it']),
        ({}, ['"instruction" is missing; add it', '"input" is missing; add it (it may be "")', '"output" is missing']),
        ({**RECORD, "instruction": None}, ['"instruction" must be text, is null']),
        ({**RECORD, "input": None}, ['"input" must be text, is null']),
        ({**RECORD, "output": None}, ['"output" must be text, is null']),
        ({**RECORD, "output": 42}, ['"output" must be text, is the number 42']),
        ({**RECORD, "output": 4.5}, ['"output" must be text, is the number 4.5']),
        ({**RECORD, "output": True}, ['"output" must be text, is true or false']),
        ({**RECORD, "output": ["a"]}, ['"output" must be text, is a list']),
        ({**RECORD, "output": {"a": 1}}, ['"output" must be text, is an object']),
        ({**RECORD, "output": ""}, ['"output" is empty; fill it or drop the record']),
        ({**RECORD, "output": " \n\t"}, ['"output" is empty; fill it or drop the record']),
        ({**RECORD, "instruction": "  "}, ['"instruction" is empty; fill it or drop the record']),
        ({**RECORD, "output": "a\ud800b"}, ['"output" holds half of a surrogate pair; correct the \\u escape']),
        ({**RECORD, "input": "\udfff"}, ['"input" holds half of a surrogate pair']),
        ({**RECORD, "id": "a\udc00"}, ['"id" holds half of a surrogate pair']),
        ({**RECORD, "id": 3}, ['"id" must be text, is the number 3']),
        ({**RECORD, "id": " "}, ['"id" is empty; fill it']),
        ({**RECORD, "kind": None}, ['"kind" must be text, is null']),
        ({**RECORD, "ouput": "x"}, ['"ouput" is not a field of a record; did you mean output?']),
        ({**RECORD, "response": "x"}, ['"response" is not a field of a record']),
        (
            {"instruction": "", "inputs": "", "output": None},
            [
                '"instruction" is empty',
                '"input" is missing',
                '"output" must be text, is null',
                '"inputs" is not a field',
            ],
        ),
    ],
)
def test_each_malformed_record_is_described_field_by_field(row, messages):
    found = find_problems(row)
    assert len(found) == len(messages)
    for line, message in zip(found, messages, strict=True):
        assert line.startswith(message)


def test_empty_input_and_optional_fields_are_no_problem():
    assert find_problems(RECORD) == []
    assert find_problems({**RECORD, "id": "7", "kind": "facts"}) == []


def test_all_bad_records_are_listed_with_file_index_and_field(tmp_path):
    rows = [
        RECORD,
        without("output"),
        {**RECORD, "output": "", "instruction": None},
        {**RECORD, "output": "Another."},
        "text",
        {**RECORD, "id": "a"},
        {**RECORD, "id": "a", "output": "x"},
        {**RECORD, "colour": "red"},
    ]
    path = write(tmp_path, rows)
    with pytest.raises(DataError) as error:
        read_examples(path)
    lines = str(error.value).splitlines()
    assert [line.split(": ", 1)[0] for line in lines] == [
        f"{path}[1]",
        f"{path}[2]",
        f"{path}[2]",
        f"{path}[4]",
        f"{path}[6]",
        f"{path}[7]",
    ]
    for line, field in zip(
        lines, ["output", "instruction", "output", "instruction, input, output", '"id"', "colour"], strict=True
    ):
        assert field in line
    examples, problems = check_examples(path)
    assert [example.output for example in examples] == ["A wren.", "Another.", "A wren."]
    assert list(problems) == [1, 2, 4, 6, 7]


def test_duplicate_id_names_both_records(tmp_path):
    rows = [{**RECORD, "id": "a"}, {**RECORD, "id": "b"}, {**RECORD, "id": "a", "input": "x"}]
    with pytest.raises(DataError, match=r'data\.json\[2\]: "id" .* record 0 \(a\)'):
        read_examples(write(tmp_path, rows))


def test_an_id_that_looks_like_a_made_one_is_a_duplicate_of_it(tmp_path):
    (made,) = make_ids([RECORD])
    with pytest.raises(DataError, match=rf'\[1\]: "id" .* record 0 \({made}\)'):
        read_examples(write(tmp_path, [RECORD, {**RECORD, "id": made, "output": "x"}]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": RECORD}, "must be a list of records, is an object"),
        ("text", "must be a list of records, is text"),
        (None, "must be a list of records, is null"),
        ([], "holds no records"),
    ],
)
def test_file_that_is_no_list_of_records_is_refused(tmp_path, rows, message):
    path = write(tmp_path, rows)
    with pytest.raises(DataError) as error:
        check_examples(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_ids_stay_when_records_come_or_go(tmp_path):
    rows = [{**RECORD, "input": str(i)} for i in range(20)]
    before = {example.input: example.id for example in read_examples(write(tmp_path, rows))}
    changed = [{**RECORD, "input": "new"}, *rows[5:], {**RECORD, "input": "newer"}]
    after = {example.input: example.id for example in read_examples(write(tmp_path, changed))}
    assert {key: after[key] for key in before if key in after} == {str(i): before[str(i)] for i in range(5, 20)}
    assert len(set(after.values())) == len(changed)


def test_ids_of_records_equal_to_the_letter_differ_and_stay_when_more_are_appended():
    rows = [RECORD, RECORD, {**RECORD, "output": "x"}, RECORD]
    ids = make_ids(rows)
    assert ids[1] == f"{ids[0]}-2"
    assert ids[3] == f"{ids[0]}-3"
    assert len(set(ids)) == 4
    assert make_ids([*rows, RECORD, {**RECORD, "input": "y"}])[:4] == ids


def test_made_id_is_the_beginning_of_the_sha256_of_the_content():
    # printf 'Name a bird.\x1f\x1fA wren.' | sha256sum
    assert make_ids([RECORD]) == ["937d969390e6"]


def test_made_id_does_not_depend_on_kind_and_tells_fields_apart():
    plain, with_kind = make_ids([RECORD])[0], make_ids([{**RECORD, "kind": "facts"}])[0]
    assert plain == with_kind
    moved = make_ids(
        [{"instruction": "ab", "input": "c", "output": "d"}, {"instruction": "a", "input": "bc", "output": "d"}]
    )
    assert moved[0] != moved[1]


def test_own_ids_are_kept():
    assert make_ids([{**RECORD, "id": "first"}, RECORD])[0] == "first"


def test_unicode_survives_to_the_letter(tmp_path):
    text = "naïve ß → 🎈 e\u0301 é \u2028 \u200b \x00 ‮ 中文 <|endoftext|>\r\n"
    path = tmp_path / "out.json"
    example = Example(id="1", instruction=text, input=text, output=text, kind="k")
    write_records(path, [example])
    assert read_examples(path) == [example]
    assert "🎈" in path.read_text(encoding="utf-8")


TEXT = st.text(min_size=1, max_size=20).filter(str.strip)
EXAMPLES = st.lists(
    st.builds(Example, id=TEXT, instruction=TEXT, input=st.text(max_size=20), output=TEXT, kind=TEXT),
    min_size=1,
    max_size=5,
    unique_by=lambda example: example.id,
)


@settings(max_examples=80)
@given(examples=EXAMPLES)
def test_examples_written_are_examples_read(tmp_path_factory, examples):
    path = tmp_path_factory.getbasetemp() / "examples.json"
    write_records(path, examples)
    assert read_examples(path) == examples


@settings(max_examples=80)
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["instruction", "input", "output", "id", "kind", "other"]),
            st.none() | st.text(max_size=3) | st.integers() | st.lists(st.none(), max_size=1),
        )
        | st.just(RECORD),
        min_size=1,
        max_size=6,
    )
)
def test_every_record_is_either_read_or_named(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    examples, problems = check_examples(path)
    assert len(examples) + len(problems) == len(rows)
    kept = [row for i, row in enumerate(rows) if i not in problems]
    assert [example.output for example in examples] == [row["output"] for row in kept]
    assert len({example.id for example in examples}) == len(examples)
    assert all(line.startswith(f"{path}[{i}]: ") for i, lines in problems.items() for line in lines)


CHAT = Example(
    id="1",
    instruction="Another.",
    input="",
    output="An owl.",
    system="Be brief.",
    history=(Turn("Name a bird.", "", "A wren."), Turn("Spell it.", "wren", "w, r, e, n")),
)


def test_a_chat_is_read_as_it_was_written_and_one_question_leaves_no_trace_of_chats(tmp_path):
    path, single = tmp_path / "chats.json", replace(CHAT, id="2", system="", history=())
    write_records(path, [CHAT, single])
    assert read_examples(path) == [CHAT, single]
    first, second = json.loads(path.read_text(encoding="utf-8"))
    assert first["history"][1] == {"instruction": "Spell it.", "input": "wren", "output": "w, r, e, n"}
    assert set(second) == {"id", "instruction", "input", "output", "kind", "group", "origin", "parent"}
    assert CHAT.turns == (*CHAT.history, Turn("Another.", "", "An owl."))


def test_made_ids_tell_chats_apart_that_end_alike():
    turn = {"instruction": "Name a bird.", "input": "", "output": "A wren."}
    ids = make_ids(
        [RECORD, {**RECORD, "history": [turn]}, {**RECORD, "system": "x"}, {**RECORD, "history": [turn] * 2}]
    )
    assert len(set(ids)) == 4 and all("-" not in id_ for id_ in ids)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"system": ""}, '"system" is empty'),
        ({"system": 7}, '"system" must be text'),
        ({"history": "x"}, '"history" must be a list of turns'),
        ({"history": ["x"]}, '"history[0]" must be an object'),
        ({"history": [RECORD, without("output")]}, '"history[1].output" is missing'),
        ({"history": [{**RECORD, "instruction": " "}]}, '"history[0].instruction" is empty'),
        ({"history": [{**RECORD, "output": "a\ud800"}]}, '"history[0].output" holds half'),
        ({"history": [{**RECORD, "weight": 1}]}, '"history[0]" has the field "weight"'),
    ],
)
def test_what_is_wrong_with_a_turn_is_named_by_its_place(row, message):
    (found,) = find_problems({**RECORD, **row})
    assert found.startswith(message)


def test_a_key_twice_in_a_turn_is_named_by_its_place(tmp_path):
    path, turn = tmp_path / "data.json", json.dumps(RECORD)
    doubled = turn.replace('"input"', '"instruction": "Name a fish.", "input"')
    path.write_text(f'[{{"history": [{turn}, {doubled}], {turn[1:]}]')
    with pytest.raises(DataError, match=r'\[0\]: in history\[1\] "instruction" appears twice'):
        read_examples(path)


RESPONSE = Response(
    id="1",
    instruction="Name a bird.",
    input="",
    output="A wren.",
    kind="facts",
    response="",
    stop_reason="length",
    prompt_tokens=9,
    response_tokens=0,
)


def test_responses_written_are_responses_read(tmp_path):
    path = tmp_path / "responses.json"
    responses = [RESPONSE, replace(RESPONSE, id="2", response="An owl\n", stop_reason="end_of_text")]
    responses.append(replace(RESPONSE, id="3", system="Be brief.", history=CHAT.history))
    write_records(path, responses)
    assert read_responses(path) == responses


@pytest.mark.parametrize(
    "rows",
    [
        {},
        ["a"],
        [{}],
        [RECORD],
        [{**asdict(RESPONSE), "more": 1}],
        [{**asdict(RESPONSE), "response": None}],
        [{**asdict(RESPONSE), "prompt_tokens": "9"}],
        [{**asdict(RESPONSE), "samples": None}],
    ],
)
def test_file_that_holds_no_responses_names_the_stage_to_run(tmp_path, rows):
    with pytest.raises(DataError, match=r"data\.json: is not a file of responses; run `dvc repro generate`"):
        read_responses(write(tmp_path, rows))
