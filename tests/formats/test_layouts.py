import json
import shlex
import shutil
import subprocess
from dataclasses import asdict, replace

import pyarrow
import pytest
from formats.reading import read_rows
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from instruct.core.errors import DataError
from instruct.formats.columns import USUAL, Columns
from instruct.formats.layouts import overrides
from instruct.formats.rows import check_rows

ASKED, ANSWERED = "Name a bird.", "A wren."
SHAREGPT = {"id": "7", "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]}
OPENAI = {"conversations": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]}
ALPACA = {"instruction": ASKED, "input": "", "output": ANSWERED}


def written(tmp_path, *rows):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "mine.jsonl"


def refusal(tmp_path, row, columns=USUAL) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(written(tmp_path, row, row), columns)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'mine.jsonl'}: ")
    return line


def followed(line: str) -> Columns:
    """The settings that a refusal names for `dvc exp run`, as the user would set them."""
    words = shlex.split(line.split("`")[1])
    assert words[::2] == ["-S"] * len(words[1::2])
    parsed = OverridesParser.create().parse_overrides(words[1::2])  # as DVC does
    changes = {one.key_or_group.removeprefix("split.columns."): one.value() for one in parsed}
    assert changes and set(changes) <= set(asdict(USUAL))
    return replace(USUAL, **changes)


@pytest.mark.parametrize("row", [SHAREGPT, OPENAI])
def test_a_usual_chat_needs_no_setting(tmp_path, row):
    (example,) = read_rows(written(tmp_path, row))
    assert (example.instruction, example.output) == (ASKED, ANSWERED)
    assert example.id == row.get("id", example.id)


def test_turns_and_system_prompt_of_sharegpt_follow_the_settings(tmp_path):
    turns = [{"from": "system", "value": "Be brief."}, *SHAREGPT["conversations"] * 2]
    path = written(tmp_path, {"conversations": turns})
    (example,) = read_rows(path, replace(USUAL, turns="all"))
    assert (example.system, len(example.history)) == ("Be brief.", 1)
    with pytest.raises(DataError, match=r"split\.columns\.turns"):
        read_rows(path)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": ASKED, "answer": ANSWERED}, USUAL),
        ({"Question": ASKED, "Answer": ANSWERED, "Topic": "birds"}, USUAL),
        ({"instruction": ASKED, "response": ANSWERED}, USUAL),
        ({"prompt": ASKED, "response": ANSWERED}, USUAL),
        ({"Frage": ASKED, "Antwort": ANSWERED}, USUAL),
        ({"input": ASKED, "output": ANSWERED}, USUAL),
        ({"output": ANSWERED, "said": ASKED}, USUAL),
        ({"question": ASKED, "best_answer": ANSWERED}, USUAL),
        ({"best_answer": ANSWERED, "question": ASKED}, USUAL),
        ({"user": ASKED, "assistant": ANSWERED, "group": "a"}, USUAL),
        ({"Ticket": 7, "Frage": ASKED, "Antwort": ANSWERED}, replace(USUAL, layout="prompt")),
        ({"instruction": ASKED, "context": "", "response": ANSWERED, "category": "open_qa"}, USUAL),
        (SHAREGPT, replace(USUAL, layout="chat")),
        (SHAREGPT, replace(USUAL, layout="alpaca")),
        (OPENAI, replace(USUAL, layout="prompt")),
        (ALPACA, replace(USUAL, layout="chat")),
        ({"prompt": ASKED, "completion": ANSWERED}, replace(USUAL, layout="alpaca")),
    ],
)
def test_a_known_layout_is_refused_with_the_settings_that_read_it(tmp_path, row, columns):
    settings = followed(refusal(tmp_path, row, columns))
    example, again = read_rows(written(tmp_path, row, row | {"id": "8"}), settings)
    assert (example.instruction, example.input, example.output) == (ASKED, "", ANSWERED)
    assert again.id == "8"


@pytest.mark.parametrize("row", [{"question": ASKED, "answer": ANSWERED}, {"Frage": ASKED, "Antwort": ANSWERED}])
def test_settings_that_are_named_never_lose_a_system_prompt(tmp_path, row):
    row |= {"system": "Be brief."}
    (example, _) = read_rows(written(tmp_path, row, row), followed(refusal(tmp_path, row)))
    assert (example.system, example.instruction, example.output) == ("Be brief.", ASKED, ANSWERED)
    line = refusal(tmp_path, {("system_prompt" if name == "system" else name): value for name, value in row.items()})
    assert '"system_prompt": rename it' in line and followed(line).others == "refuse"


def test_records_without_an_input_name_the_setting_that_reads_them(tmp_path):
    row = {"instruction": ASKED, "output": ANSWERED}
    path = written(tmp_path, row, row | {"output": ""})
    _, bad = check_rows(path)
    assert [line.split(": ")[1].split(" ")[0] for line in bad[1]] == ['"input"', '"output"']
    assert bad[0][0].startswith(f'{path}:1: "input" is missing')
    (example,) = check_rows(path, followed(bad[0][0]))[0]
    assert (example.instruction, example.input, example.output) == (ASKED, "", ANSWERED)
    (line,) = check_rows(written(tmp_path, ALPACA), followed(bad[0][0]))[1][0]
    assert '"input"' in line and "split.columns.input" in line


@pytest.mark.parametrize("row", [ALPACA, SHAREGPT, OPENAI, {"prompt": ASKED, "completion": ANSWERED}])
def test_a_column_of_no_field_is_refused_with_the_setting_that_leaves_it_out(tmp_path, row):
    path = written(tmp_path, row | {"source": "a book", "meta": {"page": 7}})
    _, bad = check_rows(path)
    lines = {line.split('"')[1]: line for line in bad[0]}
    assert set(lines) == {"source", "meta"}
    assert "flatten" in lines["meta"] and "flatten" not in lines["source"]
    for line in lines.values():
        (example,) = read_rows(path, followed(line))
        assert (example.instruction, example.output) == (ASKED, ANSWERED)


def save(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("inner", [{"prompt": ASKED, "response": ANSWERED}, SHAREGPT])
@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.parquet"])
def test_records_inside_an_object_are_one_line_with_the_command_that_flattens_them(tmp_path, inner, name):
    save(tmp_path / name, [{"meta": {"n": 1}, "the data": inner}] * 2)
    with pytest.raises(DataError, match="the data") as refused:
        check_rows(tmp_path / name)
    lines = flattened(tmp_path, name, str(refused.value))
    assert lines == [inner, inner]


def flattened(folder, name, line):
    """The records that the command in a refusal of the file `name` writes."""
    if not shutil.which("jq"):
        pytest.skip("needs jq")
    command = line.split("`")[1].replace("OUT.jsonl", "out.jsonl")
    command = command.replace("IN.parquet", name).replace("IN.jsonl", "lines.jsonl" if "parquet" in name else name)
    subprocess.run(command, shell=True, cwd=folder, check=True)
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_a_group_can_have_another_column_or_none(tmp_path):
    path = written(tmp_path, ALPACA | {"group": "Team 1", "case": "c7"})
    for column, group in (("group", "Team 1"), ("case", "c7"), ("", "")):
        (example,) = read_rows(path, replace(USUAL, group=column, others="ignore"))
        assert example.group == group
    lines = check_rows(path, replace(USUAL, group=""))[1][0]
    assert any('"group" is not read' in line and "split.columns.others" in line for line in lines)


def test_blanks_around_the_names_in_a_header_do_not_count(tmp_path):
    (tmp_path / "mine.csv").write_text(f"instruction , input,output\n{ASKED},,{ANSWERED}\n")
    (example,) = read_rows(tmp_path / "mine.csv")
    assert (example.instruction, example.input, example.output) == (ASKED, "", ANSWERED)


def test_a_table_of_questions_and_answers_names_its_settings(tmp_path):
    (tmp_path / "faq.csv").write_text(f"question,answer\n{ASKED},{ANSWERED}\n")
    with pytest.raises(DataError, match=r"faq\.csv: .*completion=answer") as caught:
        read_rows(tmp_path / "faq.csv")
    (example,) = read_rows(tmp_path / "faq.csv", followed(str(caught.value)))
    assert (example.instruction, example.output) == (ASKED, ANSWERED)


@pytest.mark.parametrize(
    "names",
    [
        ("问题", "答案"),
        ("Frage: was?", "Answer #1"),
        ("User's question", 'The "best" $x, = [1]'),
        ("1", "null"),
        ("~", "é\\"),
    ],
)
def test_columns_of_any_name_are_read_with_the_settings_that_are_named(tmp_path, names):
    row = dict(zip(names, (ASKED, ANSWERED), strict=True))
    (example, _) = read_rows(written(tmp_path, row, row), followed(refusal(tmp_path, row)))
    assert (example.instruction, example.output) == (ASKED, ANSWERED)


@given(st.text(alphabet="ab1.-_/\\\"' :,=#é问$?()[]{}", max_size=8))
def test_dvc_reads_every_text_as_it_was_given(text):
    (_, word) = shlex.split(overrides({"split.data": text}))
    assert OverridesParser.create().parse_override(word).value() == text


def test_preference_pairs_are_named_as_such(tmp_path):
    assert '"chosen"' in refusal(tmp_path, {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "x"})
    assert '"rejected"' in refusal(tmp_path, {"prompt": ASKED, "chosen": ANSWERED, "rejected": "x"})
    of_the_page = {"prompt": f"User: {ASKED}", "instruction": ASKED, "input": "", "chosen": ANSWERED, "rejected": "x"}
    assert "pairs.file" in refusal(tmp_path, of_the_page)


@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.parquet"])
def test_self_instruct_is_refused_with_a_command_that_flattens_it(tmp_path, name):
    save(tmp_path / name, [{"id": "seed_1", "instruction": ASKED, "instances": [{"input": "", "output": ANSWERED}]}])
    with pytest.raises(DataError, match="instances") as refused:
        check_rows(tmp_path / name)
    assert flattened(tmp_path, name, str(refused.value)) == [ALPACA]


@pytest.mark.parametrize("answer", [2, ["A wren.", "An owl."], {"text": ["A wren."]}])
def test_settings_never_name_an_answer_that_is_no_text(tmp_path, answer):
    line = refusal(tmp_path, {"question": ASKED, "choices": ["a", "b"], "answer": answer})
    assert '"answer" must be text' in line and "-S" not in line


@pytest.mark.parametrize("row", [ALPACA, SHAREGPT, OPENAI, {"question": ASKED, "answer": ANSWERED}])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_around_the_records_is_refused_with_the_name_of_their_list(tmp_path, row, indent):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"version": "1.0", "data": [row]}, indent=indent))
    with pytest.raises(DataError, match=rf'^{path}: .*keep only the list in "data"$'):
        read_rows(path)


def test_a_record_of_another_layout_among_good_ones_is_one_bad_record(tmp_path):
    good, bad = check_rows(written(tmp_path, ALPACA, {"question": ASKED, "answer": ANSWERED}))
    assert len(good) == 1 and list(bad) == [1] and "completion=answer" in bad[1][0]


@pytest.mark.parametrize("row", [ALPACA, {"prompt": ASKED, "completion": ANSWERED}])
def test_a_null_in_a_column_of_the_layout_is_missing_and_no_other_layout(tmp_path, row):
    for name in row.keys() - {"input"}:
        _, bad = check_rows(written(tmp_path, row | {name: None}))
        assert [line.split(": ", 1)[1].split(";")[0] for line in bad[0]] == [f'"{name}" is missing']


def test_a_record_that_looks_like_nothing_known_keeps_its_own_errors(tmp_path):
    for row in ({"instruction": ASKED, "input": ""}, {"tags": [{"name": "birds"}]}, {"data": []}):
        _, bad = check_rows(written(tmp_path, row))
        assert any('"output" is missing' in line for line in bad[0])
