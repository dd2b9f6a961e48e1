import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml as pyyaml
from ruamel.yaml import YAML
from small_pipeline import commit_all, edit_params, git, leaves

from instruct import cli

ROOT = Path(__file__).parents[1]
RECORDS = [
    {"instruction": "Spell it correctly.", "input": "recieve", "output": "receive"},
    {"instruction": "Name a bird.", "input": "", "output": "An owl, a wren, and a robin."},
    {"instruction": "Say <|endoftext|> twice.", "input": "", "output": "<|endoftext|><|endoftext|>"},
]
# Importing torch ends the process with a status of its own, however the import is wrapped.
NO_TORCH = "import os\nos._exit(99)\n"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The project's settings with the random backbone and three records; no weights on this machine."""
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "backbones.yaml", tmp_path / "models")
    (tmp_path / "data").mkdir()
    write_data(tmp_path, RECORDS * 4)
    (tmp_path / "data/checks.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    set_params(tmp_path, **{"split.data": "data/tiny.json", "model.backbone": "gpt2-tiny-random"})
    set_params(tmp_path, **{"split.strategy": "shuffled"})  # three prompts, four times each, make too few groups
    return tmp_path


def write_data(workspace, rows):
    (workspace / "data" / "tiny.json").write_text(json.dumps(rows), encoding="utf-8")


def set_params(workspace, **changes):
    path = workspace / "params.yaml"
    edit_params(path if path.exists() else ROOT / "params.yaml", path, changes)


@pytest.fixture
def instruct(monkeypatch, capsys):
    """Run the command line as the installed script does; gives exit status, output, errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["instruct", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return stop.value.code or 0, out, err

    return run


def test_check_prints_every_effective_setting_and_what_is_in_the_data(workspace, instruct):
    status, out, err = instruct("check")
    assert (status, err) == (0, "")
    shown = dict(line.split(" = ", 1) for line in out.splitlines() if " = " in line)
    wanted = YAML(typ="safe").load((workspace / "params.yaml").read_text(encoding="utf-8"))
    assert set(shown) == {key for key, _ in leaves(wanted)}
    for key, value in leaves(wanted):
        assert shown[key] == str(tuple(value) if isinstance(value, list) else value)
    assert "data/tiny.json: 12 records valid, 0 not" in out
    assert "data/tiny.json: train 7, val 2, test 3" in out
    assert "backbone gpt2-tiny-random (Apache-2.0)" in out
    assert out.splitlines()[-1] == "no problems found"


def test_check_lists_all_problems_at_once(workspace, instruct):
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("  epochs:", "  epoch:", 1).replace("\n  top_p: 1.0", "\n  top_p: 2.0")
    text = text.replace("gpt2-tiny-random", "gpt2-tiny-randon") + "\nplots: {}\n"
    (workspace / "params.yaml").write_text(text, encoding="utf-8")
    write_data(workspace, [*RECORDS, {**RECORDS[0], "output": ""}, {"instruction": "a", "output": None}])
    status, out, err = instruct("check")
    assert status == 1
    *lines, last = err.removeprefix("instruct: ").splitlines()
    named = ["plots", "train.epoch", "generate.top_p", "gpt2-tiny-randon", "[3]", '[4]: "input"', '[4]: "output"']
    assert len(lines) == len(named)
    for line, place in zip(lines, named, strict=True):
        assert place in line
    assert last == "7 problems"
    assert "split.seed = 123" in out
    assert "no problems found" not in out


def test_check_quiet_prints_problems_only(workspace, instruct):
    assert instruct("check", "--quiet") == (0, "", "")
    set_params(workspace, **{"plot.examples": -1})
    status, out, err = instruct("check", "-q")
    assert (status, out) == (1, "")
    assert err.splitlines() == ["instruct: params.yaml: plot.examples must be from 0 to 1000, is -1", "1 problem"]


def test_check_shows_but_accepts_records_that_split_will_drop(workspace, instruct):
    write_data(workspace, [*RECORDS * 4, {**RECORDS[0], "output": ""}])
    set_params(workspace, **{"split.invalid": "drop"})
    status, out, err = instruct("check")
    assert (status, err) == (0, "")
    assert 'data/tiny.json[12]: "output" is empty; fill it or drop the record' in out
    assert "data/tiny.json: 12 records valid, 1 not" in out


def test_check_of_another_file_judges_that_file(workspace, instruct):
    other = workspace / "other.json"
    other.write_text('[{"instruction": "a", "input": "", "output": "b", "id": true}]')
    status, out, err = instruct("check", "other.json")
    assert status == 1
    assert err.splitlines()[0] == 'instruct: other.json[0]: "id" must be text, is true or false'
    assert "tiny.json:" not in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b'[{"instruction": "a', "the file looks cut off"),
        ('[{"instruction": "é", "input": "", "output": "e"}]'.encode("latin-1"), "the byte 0xe9, which is not UTF-8"),
        (b"7", "must be a list of records, is the number 7"),
        (b"[]", "holds no records"),
        (json.dumps(RECORDS).encode(), "3 records leave nothing for test"),
    ],
)
def test_check_names_what_is_wrong_with_a_data_file_as_a_whole(workspace, instruct, content, message):
    path = workspace / "data" / "tiny.json"
    path.unlink() if content is None else path.write_bytes(content)
    status, _, err = instruct("check")
    assert status == 1
    assert message in err
    assert err.splitlines()[-1] == "1 problem"


def test_check_tells_which_weights_will_be_fetched(workspace, instruct):
    set_params(workspace, **{"model.backbone": "gpt2-124m"})
    status, out, _ = instruct("check")
    assert status == 0
    assert "backbone gpt2-124m (MIT): GPT-2 (OpenAI, 2019), 124M parameters; will be fetched: model.safetensors" in out


@pytest.mark.parametrize("arguments", [("check",), ("ask", "Hi"), ("chat",), ("serve",), ("export", "gguf")], ids=str)
def test_a_command_outside_of_the_repository_is_one_line(tmp_path, monkeypatch, instruct, arguments):
    monkeypatch.chdir(tmp_path)
    message = "instruct: params.yaml: there is no such file; run from the repository's root\n"
    assert instruct(*arguments) == (1, "", message)


def test_check_says_each_mistake_once_and_nothing_that_is_not_so(workspace, hermetic, instruct):
    """One misspelt section is one problem; so is a wrong backbone, though two checks look for it."""
    git(workspace, "init", "--quiet")
    commit_all(workspace)
    assert "as committed" in instruct("check")[1]
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    for old, new, words in (("\ntrain:", "\ntrian:", "train"), ("random", "randon", "gpt2-tiny-random")):
        (workspace / "params.yaml").write_text(text.replace(old, new), encoding="utf-8")
        status, out, err = instruct("check")
        first, last = err.splitlines()
        assert (status, last) == (1, "1 problem") and first.endswith(f"did you mean {words}?")
        assert "as committed" not in out


def test_own_data_that_is_not_there_is_told_with_its_setting(workspace, instruct):
    set_params(workspace, **{"split.data": "data/mine.jsonl"})
    status, _, err = instruct("check", "-q")
    assert status == 1 and err.startswith("instruct: data/mine.jsonl: ") and "split.data" in err
    assert len(err.splitlines()) == 2


def test_installed_command_checks_the_project_without_torch(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(NO_TORCH)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}", "PYTHONUTF8": "1"}
    trapped = subprocess.run([sys.executable, "-c", "import torch"], env=environment, timeout=60)
    assert trapped.returncode == 99
    done = subprocess.run(
        [sys.executable, "-c", "from instruct.cli import run; run()", "check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "no problems found"


# A line of `instruct inspect`: place, token and its id, target and its id or nothing, weight.
LINE = re.compile(r" *(\d+)  ('.*?'|\".*?\") (\d+) +(?:('.*?'|\".*?\") (\d+) +)?(\d\.\d\d)")
END = ("<|endoftext|>", 50256)


def inspected(out):
    """The rows that were printed, each a list of (token, target or None, weight), where a token is text and id."""
    rows = []
    for line in out.splitlines()[:-1]:
        if line.startswith("row "):
            assert line == f"row {len(rows)}"
            rows.append([])
        elif not line.endswith("weight"):
            place, token, id_, target, target_id, weight = LINE.fullmatch(line).groups()
            assert int(place) == len(rows[-1])
            target = (ast.literal_eval(target), int(target_id)) if target else None
            rows[-1].append(((ast.literal_eval(token), int(id_)), target, float(weight)))
    return rows


def prompt_of(record):
    """The alpaca prompt, written out by hand."""
    head = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    middle = f"\n\n### Input:\n{record['input']}" if record["input"] else ""
    return f"{head}\n\n### Instruction:\n{record['instruction']}{middle}\n\n### Response:\n"


def text_of(tokens):
    return "".join(text for text, _ in tokens)


def test_inspect_shows_prompt_tokens_without_weight_and_exactly_one_end_token(workspace, instruct):
    status, out, err = instruct("inspect", "-n", "3")
    assert (status, err) == (0, "")
    rows = inspected(out)
    assert len(rows) == 3
    for row, record in zip(rows, RECORDS, strict=True):
        targets = [target for _, target, _ in row if target]
        assert text_of(targets[:-1]) == record["output"]
        assert targets[-1] == END
        assert [id_ for _, id_ in targets].count(END[1]) == 1
        first = next(place for place, (_, target, _) in enumerate(row) if target)
        last = first + len(targets) - 1
        # The prompt's last token predicts the first of the response; what comes after the end is padding.
        assert text_of(token for token, _, _ in row[: first + 1]) == prompt_of(record)
        assert [token for token, _, _ in row[first + 1 : last + 1]] == targets[:-1]
        assert {token for token, _, _ in row[last + 1 :]} <= {END}
        assert [weight for _, _, weight in row] == [0.0] * first + [1.0] * len(targets) + [0.0] * (len(row) - last - 1)
        assert all((target is None) == (weight == 0) for _, target, weight in row)
    lengths = {len(row) for row in rows}
    assert len(lengths) == 1
    real = sum(len(prompt_of_tokens(row)) for row in rows)
    weighed = sum(weight for row in rows for _, _, weight in row)
    share = weighed / sum(len(row) for row in rows)
    assert out.splitlines()[-1] == (
        f"{real} tokens, weight of targets {weighed:g} ({share:.0%} of all {3 * lengths.pop()} places)"
    )


def prompt_of_tokens(row):
    """The tokens of a row's example: up to the end token, which is only ever a target."""
    targets = [place for place, (_, target, _) in enumerate(row) if target]
    return range(max(targets) + 2)


def test_inspect_shows_the_weight_of_prompt_targets(workspace, instruct):
    set_params(workspace, **{"train.prompt_loss_weight": 0.5})
    rows = inspected(instruct("inspect", "-n", "1")[1])
    (row,) = rows
    halves = [target for _, target, weight in row if weight == 0.5]
    wholes = [target for _, target, weight in row if weight == 1.0]
    assert len(halves) + len(wholes) == len(row)
    assert row[0][0][0] + text_of(halves) == prompt_of(RECORDS[0])
    assert text_of(wholes) == RECORDS[0]["output"] + END[0]


def test_inspect_of_bad_records_is_the_same_list_as_anywhere(workspace, instruct):
    write_data(workspace, [{"instruction": "a", "input": 1, "output": "b"}])
    assert instruct("inspect") == (1, "", 'instruct: data/tiny.json[0]: "input" must be text, is the number 1\n')


def test_inspect_of_an_over_long_record_names_it(workspace, instruct):
    set_params(workspace, **{"train.max_length": 20})
    status, out, err = instruct("inspect", "-n", "1")
    assert (status, out) == (1, "")
    first, remedy = err.splitlines()
    assert re.match(r"instruct: record [0-9a-f]{12}: \d+ tokens, .*20$", first)
    assert "train.max_length" in remedy


@pytest.mark.parametrize(
    ("over_long", "rows", "fate"), [("truncate", 3, "cuts 2 and drops 0"), ("drop", 1, "cuts 0 and drops 2")]
)
def test_inspect_says_what_training_cuts_and_drops(workspace, instruct, over_long, rows, fate):
    answers = ["owl", "owl " * 60, "wren " * 60]
    write_data(workspace, [{"instruction": f"Bird {i}.", "input": "", "output": one} for i, one in enumerate(answers)])
    set_params(workspace, **{"train.over_long": over_long, "train.max_length": 60})
    status, out, err = instruct("inspect", "-n", "3")
    first, rest = out.split("\n", 1)
    assert (status, err, len(inspected(rest))) == (0, "", rows)
    assert first == f"of 3 records, train.over_long: {over_long} {fate}"


def test_fetch_without_a_name_lists_every_backbone(workspace, instruct):
    status, out, err = instruct("fetch")
    assert (status, err) == (0, "")
    table = pyyaml.safe_load((ROOT / "models" / "backbones.yaml").read_text(encoding="utf-8"))
    assert [line.split()[0] for line in out.splitlines()] == list(table)
    for line, entry in zip(out.splitlines(), table.values(), strict=True):
        sizes = [file.get("size") for file in entry["files"]]
        assert ("not pinned" if None in sizes else f"{sum(sizes) / 1e6:.0f} MB") in line
        assert entry["licence"] in line
        assert entry["about"] in line
    assert not (workspace / "cache").exists()


def test_fetch_of_a_backbone_without_files_says_so(workspace, instruct):
    assert instruct("fetch", "gpt2-tiny-random") == (0, "gpt2-tiny-random: needs no files\n", "")


@pytest.mark.parametrize("option", [("--from", "weights"), ("--pin",)], ids=str)
def test_fetch_without_a_name_ignores_no_option(workspace, instruct, option):
    assert instruct("fetch", *option) == (1, "", f"instruct: {option[0]} needs the name of a backbone; give one\n")


def test_fetch_of_an_unknown_name_gives_the_nearest(workspace, instruct):
    message = 'instruct: there is no backbone "smolm2-135m" in models/backbones.yaml; did you mean smollm2-135m?\n'
    assert instruct("fetch", "smolm2-135m") == (1, "", message)


def test_fetch_from_a_wrong_local_file_is_one_line_and_keeps_nothing(workspace, instruct):
    (workspace / "weights").write_bytes(b"not these")
    status, out, err = instruct("fetch", "gpt2-124m", "--from", "weights")
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"instruct: weights has 9 bytes instead of 548,105,171: .* the gpt2-124m that the table pins\n", err
    )
    assert not (workspace / "cache").exists()


def test_help_names_every_command_and_what_it_does(instruct):
    status, out, _ = instruct("--help")
    assert status == 0
    for name in ("check", "inspect", "fetch", "import-data", "smoke"):
        assert re.search(rf"^ +{name} +\S+ \S+", out, re.MULTILINE)


def commands(command, name=()):
    """Every command with its words, groups and what is in them."""
    yield name, command
    for part, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*name, part))


def test_no_summary_is_cut_on_a_terminal_of_80_columns(instruct, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = dict(commands(typer.main.get_command(cli.app)))
    groups = [name for name, command in found.items() if hasattr(command, "commands")]
    assert len(groups) >= 4
    for name in groups:
        _, out, _ = instruct(*name, "--help")
        listed = [line.split(maxsplit=1) for line in out.split("Commands:\n")[1].splitlines()]
        shown = {part: summary for part, summary in listed}
        assert set(shown) == set(found[name].commands)
        for part, summary in shown.items():
            assert not summary.endswith("...") and found[name].commands[part].help.startswith(summary), (part, summary)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--sd", "1e308"), "--sd"),
        (("--sd", "nan"), "--sd"),
        (("--sd", "35", "--seed-sd", "1e200"), "--seed-sd"),
        (("--sd", "35", "--score", "bogus"), "--score"),
    ],
)
def test_power_plans_only_with_what_scores_can_show(instruct, options, named):
    status, out, err = instruct("power", *options)
    assert (status, out, len(err.splitlines())) == (1, "", 1) and named in err


@pytest.mark.parametrize("arguments", [("chek",), ("check", "--quite"), ("inspect", "-n", "0"), ("import-data",)])
def test_mistyped_command_line_is_status_2_and_changes_nothing(workspace, instruct, arguments):
    before = sorted(workspace.rglob("*"))
    status, out, err = instruct(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: instruct" in err
    assert sorted(workspace.rglob("*")) == before
