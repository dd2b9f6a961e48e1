import json
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from instruct import cli

ROOT = Path(__file__).parents[2]
DATA = json.loads((ROOT / "data/instructions.json").read_text(encoding="utf-8"))
# Real ones, since made-up ones resemble each other so much that split keeps them together.
GOOD = [{name: row[name] for name in ("instruction", "input", "output")} for row in DATA if " " in row["output"]][:20]


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Run `instruct check` on records with some settings changed; gives exit status, output, errors."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=lambda _, names: set(names) - {"backbones.yaml"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/checks.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"]["backbone"], params["split"]["data"] = "gpt2-tiny-random", "data/mine.json"
    params["split"] |= {"train": 0.6, "val": 0.2, "test": 0.2}  # of twenty records each part has some

    def run(rows, *arguments, change=lambda params: None):
        change(params)
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(params, file)
        Path("data/mine.json").write_text(json.dumps(rows), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["instruct", "check", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out.splitlines(), err.splitlines()

    return run


def test_check_of_a_file_lists_every_finding_with_its_records_and_lengths(check):
    rows = [*GOOD, {"instruction": "Name a fish.", "input": "", "output": "Trout"}]
    status, out, err = check(rows, "data/mine.json")
    assert (status, err) == (0, [])
    place = out.index("one_word_answer: 1 records, 4.76 %, ok (at most 50 %)")
    assert out[place + 1].startswith("  data/mine.json[20] ")
    assert out[place + 1].endswith(': "output" is one word')
    assert "pii_email: 0 records, 0.00 %, ok (at most 0 %)" in out
    assert "lengths in tokens, counted in 21 of 21 records:" in out
    assert out[place - 1].startswith("empty_answer: 0 records")
    assert [line for line in out if line.startswith("languages of answers (unknown: short or unsure): unknown ")]


def test_the_place_of_a_record_counts_the_refused_ones_before_it(check):
    rows = [{"instruction": "bad"}, *GOOD[:3], {"instruction": 1}, {**GOOD[4], "output": "Owl"}, *GOOD[5:]]
    _, out, _ = check(rows, "data/mine.json")
    assert next(line for line in out if line.endswith("is one word")).startswith("  data/mine.json[5] ")


def test_check_without_a_file_says_in_one_line_that_all_gates_passed(check):
    status, out, _ = check(GOOD)
    assert status == 0
    assert "data/mine.json: 15 kinds of findings looked for, none beyond its gate" not in out
    assert "data/mine.json: 14 kinds of findings looked for, none beyond its gate" in out


def test_a_gate_that_warns_leaves_the_check_well_and_one_that_fails_does_not(check):
    rows = [*GOOD, {"instruction": "Ask someone.", "input": "", "output": "ask ann.lee@mail.org"}]
    status, out, err = check(rows)
    assert (status, err, out[-1]) == (0, [], "no problems found")
    assert [line for line in out if line.startswith("warning: pii_email: 1 of 21 records")]

    def harden(params):
        params["quality"]["gates"]["pii_email"]["action"] = "fail"

    for arguments in ([], ["data/mine.json"], ["--quiet"]):
        status, out, err = check(rows, *arguments, change=harden)
        assert status == 1
        assert err[0].startswith("instruct: pii_email: 1 of 21 records (4.76 %), more than quality.gates.pii_email")
        assert err[1:] == ["1 problem"]


def test_lengths_wait_for_the_backbone(check):
    def real(params):
        params["model"]["backbone"] = "smollm2-135m"

    status, out, _ = check(GOOD, "data/mine.json", change=real)
    assert status == 0
    assert "lengths in tokens: the tokenizer is not here yet; `instruct fetch` the backbone, then check again" in out


def test_a_gate_of_a_wrong_name_or_share_is_refused(check):
    def misspell(params):
        gates = params["quality"]["gates"]
        gates["pii_emial"] = gates.pop("pii_email")

    status, _, err = check(GOOD, change=misspell)
    assert status == 1
    assert "params.yaml: quality.gates.pii_emial is not a setting; did you mean pii_email?" in "\n".join(err)


def test_inspect_leaves_out_what_split_drops_and_says_so(check, monkeypatch, capsys):
    def drop(params):
        params["split"]["invalid"] = "drop"

    check([{"instruction": "bad", "input": "", "output": ""}, *GOOD], change=drop)
    for arguments, expected in (((), 0), (("data/mine.json",), 1)):
        monkeypatch.setattr(sys, "argv", ["instruct", "inspect", "-n", "1", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        out, err = capsys.readouterr()
        assert (stop.value.code or 0) == expected
        problem = 'data/mine.json[0]: "output" is empty; fill it or drop the record'
        assert (f"left out: {problem}" in out.splitlines(), problem in err) == (expected == 0, expected == 1)
        assert ("row 0" in out) == (expected == 0)
