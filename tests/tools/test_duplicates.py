import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from formats.reading import read_rows
from hydra.core.override_parser.overrides_parser import OverridesParser

from instruct import cli
from instruct.core.records import read_examples
from instruct.formats.columns import USUAL
from instruct.formats.rows import Rows
from instruct.splitting.near_duplicates import DuplicatesParams
from instruct.tools.duplicates import find_in_files

ROOT = Path(__file__).parents[2]
BOOK = ROOT.parent / "shared" / "data" / "seed" / "instruction-data.json"


@pytest.fixture
def instruct(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["instruct", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


def write(path, *instructions):
    rows = [{"instruction": text, "input": "", "output": f"{i}", "id": f"r{i}"} for i, text in enumerate(instructions)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_groups_are_found_within_and_across_files(instruct, tmp_path):
    one = write(tmp_path / "a.json", "Name the capital of France, please.", "Add 2 and 3.", "add 2  and 3.")
    two = write(tmp_path / "b.json", "Name the capital of France please.", "Something else entirely")
    status, out, err = instruct("duplicates", one, two)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "5 records: 4 in 2 groups of near-duplicates, 1 equal to an earlier one; 1 groups are in more than one file",
        "group of 2",
        f"  {one} r0: name the capital of france, please.",
        f"  {two} r0: name the capital of france please.",
        "group of 2",
        f"  {one} r1: add 2 and 3.",
        f"  {one} r2: add 2 and 3.",
    ]


def test_a_chat_that_holds_the_question_of_another_file_is_counted_and_grouped_with_it(instruct, tmp_path, monkeypatch):
    settings = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(settings.replace("turns: refuse ", "turns: all "), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    turn = {"instruction": "How do I reset my password?", "input": "", "output": "Open the settings."}
    chat = {"instruction": "And my e-mail address?", "input": "", "output": "In the profile.", "history": [turn]}
    other = {"instruction": "Name a bird.", "input": "", "output": "An owl."}
    train, test, both = (tmp_path / f"{name}.json" for name in ("train", "test", "both"))
    train.write_text(json.dumps([chat, other]), encoding="utf-8")
    test.write_text(json.dumps([turn]), encoding="utf-8")
    both.write_text(json.dumps([chat, other, turn]), encoding="utf-8")
    _, out, _ = instruct("duplicates", train, test)
    (line,) = [line for line in out.splitlines() if "of another file" in line]
    assert line.startswith("1 records end with")
    assert "of another file" not in instruct("duplicates", both)[1]
    assert instruct("duplicates", both, "--mode", "group", "--out", tmp_path / "all.json")[0] == 0
    first, apart, last = (one.group for one in read_examples(tmp_path / "all.json"))
    assert first == last != apart


def test_drop_writes_the_first_of_each_group_and_group_marks_all(instruct, tmp_path):
    data = write(tmp_path / "a.json", "Add 2 and 3.", "Something else entirely", "add 2 and 3.")
    assert instruct("duplicates", data, "--mode", "drop", "--out", tmp_path / "less.json")[0] == 0
    assert [e.id for e in read_examples(tmp_path / "less.json")] == ["r0", "r1"]
    assert instruct("duplicates", data, "--mode", "group", "--out", tmp_path / "all.json")[0] == 0
    assert [e.group for e in read_examples(tmp_path / "all.json")] == ["r0", "r1", "r0"]


@pytest.mark.parametrize("mode", ["drop", "group"])
def test_groups_of_the_file_stay_together(tmp_path, mode):
    data, out = tmp_path / "a.json", tmp_path / "b.json"
    texts = ("Add 2 and 3.", "Something else entirely", "Name a bird.", "add 2 and 3.", "Spell the word apple")
    rows = json.loads(write(data, *texts).read_text())
    groups = dict(zip((row["id"] for row in rows), "xyzzy", strict=True))
    data.write_text(json.dumps([row | {"group": groups[row["id"]]} for row in rows]))
    params = DuplicatesParams(on="prompt", similarity=90.0, mode=mode, method="exact")
    find_in_files([data], params, USUAL, out=out, show=0)
    written = {one.id: one.group for one in read_examples(out)}
    assert written["r1"] == written["r4"] and written["r0"] == written["r2"]  # r3 is equal to r0 and in the group of r2
    assert len(set(written.values())) == 2


def test_a_dropped_record_puts_no_kept_records_into_one_group(tmp_path):
    data, out = write(tmp_path / "a.json", "a" * 40, "b" * 40, "a" * 20 + "b" * 20), tmp_path / "b.json"
    params = DuplicatesParams(on="prompt", similarity=50.0, mode="drop", method="exact")
    find_in_files([data], params, USUAL, out=out, show=0)
    assert [(one.id, one.group) for one in read_examples(out)] == [("r0", "r0"), ("r1", "r1")]


@pytest.mark.parametrize(("mode", "kept"), [("drop", ["r0", "r1"]), ("group", ["r0", "r1", "r2"])])
def test_kept_records_keep_their_checks(instruct, tmp_path, mode, kept):
    out = tmp_path / "b.json"
    data = write(tmp_path / "a.json", "Add 2 and 3.", "Something else entirely", "add 2 and 3.")
    rows = json.loads(data.read_text())
    checks = {row["id"]: {"type": "number", "value": place} for place, row in enumerate(rows) if row["id"] != "r1"}
    data.write_text(json.dumps([row | ({"check": checks[row["id"]]} if row["id"] in checks else {}) for row in rows]))
    assert instruct("duplicates", data, "--mode", mode, "--out", out)[0] == 0
    written = Rows(out)
    assert [example.id for example in written] == kept
    assert written.checks == {id_: check for id_, check in checks.items() if id_ in kept}


def test_content_that_is_left_out_is_counted(tmp_path):
    data = tmp_path / "a.json"
    data.write_text(json.dumps([{"instruction": "Why?", "input": "", "output": "So.", "source": "a book"}]))
    params = DuplicatesParams(on="prompt", similarity=90.0, mode="group", method="exact")
    columns = replace(USUAL, others="ignore")
    lines = find_in_files([data], params, columns, out=tmp_path / "b.json", show=0)
    assert [line for line in lines if line.startswith(f"{data}: 1 ") and "split.columns.others" in line]


@pytest.mark.parametrize(
    "settings",
    [
        {"layout": "prompt", "prompt": "q", "completion": "a"},
        {"instruction": "q", "output": "a", "input": "", "group": ""},
        {"layout": "prompt", "prompt": "q", "completion": "a", "id": "number", "others": "ignore"},
    ],
)
@pytest.mark.parametrize("mode", ["drop", "group"])
def test_what_is_written_can_be_read_with_the_settings_that_are_printed(tmp_path, settings, mode):
    data, out = tmp_path / "a.jsonl", tmp_path / "b (ç).json"
    number = {"number": "7"} if "id" in settings else {}
    data.write_text(json.dumps({"q": "Why?", "a": "So."} | number))
    params = DuplicatesParams(on="prompt", similarity=90.0, mode=mode, method="exact")
    columns = replace(USUAL, **settings)
    line = find_in_files([data], params, columns, out=out, show=0)[-1]
    words = shlex.split(line.split("`")[1])
    parsed = OverridesParser.create().parse_overrides(words[1::2])  # as DVC does
    named = {one.key_or_group.removeprefix("split."): one.value() for one in parsed}
    assert named.pop("data") == str(out)
    (example,) = read_rows(out, replace(columns, **{key.removeprefix("columns."): one for key, one in named.items()}))
    assert (example.instruction, example.output) == ("Why?", "So.")


def test_input_is_never_overwritten(instruct, tmp_path):
    data = write(tmp_path / "a.json", "Add 2 and 3.", "add 2 and 3.")
    before = data.read_bytes()
    status, _, err = instruct("duplicates", data, "--mode", "drop", "--out", tmp_path / "none/../a.json")
    assert (status, data.read_bytes()) == (1, before) and "--out" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "drop"], "--out goes with --mode drop and --mode group, which need it"),
        (["--mode", "drop", "--out", "x.csv"], "--out x.csv: the records are written as JSON"),
        (["--mode", "drip", "--out", "x.json"], "duplicates.mode must be one of report, drop, group"),
        (["--similarity", "30"], "duplicates.similarity must be from 50 to 100, is 30.0"),
        (["--on", "answer"], "duplicates.on must be one of instruction, input, output, prompt, whole"),
    ],
)
def test_a_wrong_option_is_one_line(instruct, tmp_path, arguments, message):
    status, out, err = instruct("duplicates", write(tmp_path / "a.json", "a"), *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_bad_record_is_named_and_nothing_is_written(instruct, tmp_path):
    (tmp_path / "a.json").write_text('[{"instruction": "a", "input": ""}]')
    status, _, err = instruct("duplicates", tmp_path / "a.json", "--mode", "drop", "--out", tmp_path / "b.json")
    assert status == 1
    assert '"output" is missing' in err
    assert not (tmp_path / "b.json").exists()


@pytest.mark.skipif(not BOOK.exists(), reason="the folder ../shared/data is not here")
def test_input_of_the_books_data_shows_the_groups_that_its_own_tool_misses(instruct):
    status, out, _ = instruct("duplicates", BOOK, "--on", "input", "--show", 0)
    assert status == 0
    assert out.startswith("1100 records: 31 in 15 groups of near-duplicates, 12 equal to an earlier one")
