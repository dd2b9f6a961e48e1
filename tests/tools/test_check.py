"""`instruct check` knows the limits of backbone, training and generation together, and what is not as committed."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from instruct.core.params import load_params
from instruct.core.records import Example, Ids, Turn, read_examples
from instruct.generation.settings import GenerateParams
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer
from instruct.tools.answers import common_lines, reference_lines, unit_lines, with_checks
from instruct.tools.check import check_all, left_over, setting_lines, tracking_lines
from instruct.tools.limits import Length, Room, context_without_weights, count_lengths, limit_lines, warmup_lines
from instruct.training.encode import encode_example
from instruct.training.schedule import WarmupCosine
from instruct.training.settings import TrainParams

ROOT = Path(__file__).parents[2]
TRAIN = load_params("train", TrainParams, ROOT / "params.yaml")
GENERATE = load_params("generate", GenerateParams, ROOT / "params.yaml")
DATA = json.loads((ROOT / "data/instructions.json").read_text(encoding="utf-8"))[:60]


def room(context=1024, exact=True, over_long="raise", generate_over_long="raise", **changes):
    limits = {"max_length": 100, **changes}
    return Room(
        train=replace(TRAIN, max_length=limits["max_length"], over_long=over_long),
        generate=replace(GENERATE, max_new_tokens=limits.get("max_new_tokens", 64), over_long=generate_over_long),
        context=context,
        exact=exact,
    )


def lengths(*pairs):
    return [Length(id=f"r{i}", prompt=prompt, response=response) for i, (prompt, response) in enumerate(pairs)]


def test_lengths_are_those_that_training_encodes():
    examples = read_examples(ROOT / "data/instructions.json")[:50]
    tokenizer, template = gpt2_tokenizer(), TEMPLATES["alpaca"]
    for found, example in zip(count_lengths(examples, template, tokenizer), examples, strict=True):
        encoded = encode_example(example, template, tokenizer)
        assert (found.id, found.prompt, found.total) == (example.id, encoded.prompt_length, len(encoded.ids))
    assert count_lengths([], template, tokenizer) == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_lengths_of_chats_are_those_of_their_last_turn(smollm2_tokenizer, template):
    chat = Example(
        id="c",
        instruction="So?",
        input="",
        output="Ok.",
        system="S",
        history=(Turn("Hi", "", "Yo"), Turn("A", "b", "No")),
    )
    (found,) = count_lengths([chat], TEMPLATES[template], smollm2_tokenizer)
    encoded = encode_example(chat, TEMPLATES[template], smollm2_tokenizer, turns="last")
    assert (found.prompt, found.total) == (encoded.prompt_length, len(encoded.ids))


@pytest.mark.parametrize("over_long", ["raise", "truncate", "drop"])
def test_a_record_beyond_max_length_stops_the_check_only_if_it_stops_training(over_long):
    fits, too_long = (60, 40), (61, 40)
    assert limit_lines(lengths(fits), room(over_long=over_long)) == ([], [])
    warnings, stops = limit_lines(lengths(fits, too_long), room(over_long=over_long))
    assert (len(warnings), len(stops)) == ((0, 1) if over_long == "raise" else (1, 0))
    assert "train.max_length 100" in (warnings + stops)[0]
    assert "1 of 2" in (warnings + stops)[0] and "r1" in (warnings + stops)[0]


def test_the_backbones_context_bounds_training_where_it_is_shorter_than_max_length():
    _, stops = limit_lines(lengths((20, 31), (20, 32)), room(context=50, max_new_tokens=30))
    assert len(stops) == 1
    assert "context of 50" in stops[0] and "1 of 2" in stops[0]


def test_a_reference_beyond_max_new_tokens_is_counted_without_its_end_token():
    warnings, stops = limit_lines(lengths((10, 65), (10, 66), (10, 70)), room())
    assert stops == []
    assert len(warnings) == 1
    assert "generate.max_new_tokens 64" in warnings[0] and "2 of 3" in warnings[0] and "69" in warnings[0]


@pytest.mark.parametrize(("over_long", "stopping"), [("raise", 1), ("truncate", 0)])
def test_a_prompt_without_room_for_an_answer_is_said_before_generation_says_it(over_long, stopping):
    limits = room(context=80, generate_over_long=over_long)
    assert limit_lines(lengths((16, 2)), limits) == ([], [])
    warnings, stops = limit_lines(lengths((16, 2), (17, 2)), limits)
    assert (len(stops), len(warnings)) == (stopping, 1 - stopping)


def test_a_count_that_is_not_exact_stops_nothing():
    warnings, stops = limit_lines(lengths((200, 2000)), room(context=100, exact=False))
    assert stops == []
    assert len(warnings) == 3
    assert all("about 1 of 1" in line for line in warnings)


@pytest.mark.parametrize(
    ("config", "family", "context"),
    [
        ({}, "gpt2", 1024),
        ({"n_positions": 64}, "gpt2", 64),
        ({"max_position_embeddings": 2048}, "llama", 2048),
        ({}, "llama", None),
        ({"n_positions": "64"}, "gpt2", None),
    ],
)
def test_the_context_is_what_the_config_says_or_unknown(config, family, context):
    assert context_without_weights(config, family) == context


# Warm-up


@pytest.mark.parametrize(("records", "epochs", "warmup"), [(60, 1, 10), (8, 1, 2), (9, 3, 7), (1000, 2, 1000)])
def test_a_warm_up_longer_than_the_run_says_which_rate_is_reached(records, epochs, warmup):
    train = replace(TRAIN, epochs=epochs, warmup_steps=warmup, micro_batch_size=4, grad_accum_steps=2)
    steps = epochs * -(-records // 8)
    (line,) = warmup_lines(train, records, 50.0)
    schedule = WarmupCosine(peak=train.lr, floor=0.0, warmup_steps=warmup, total_steps=steps)
    assert f"{steps} steps" in line and f"{max(map(schedule, range(steps))):.3g}" in line
    assert warmup_lines(replace(train, warmup_steps=steps), records, 50.0) == []


def test_steps_of_so_many_tokens_count_by_tokens():
    train = replace(TRAIN, tokens_per_step=1000, warmup_steps=6, epochs=1)
    assert warmup_lines(train, 100, 60.0) == []
    assert "5 steps" in warmup_lines(train, 100, 50.0)[0]


def test_records_whose_reference_answer_fails_its_own_check_are_counted_and_named():
    answers = {"r1": "Lima", "r2": "Quito", "r3": "It is not Lima.", "r4": "Lima"}
    examples = [Example(id=id_, instruction="Capital of Peru?", input="", output=text) for id_, text in answers.items()]
    checks = {id_: {"type": "accept", "accept": ["Lima"]} for id_ in ("r1", "r2", "r3")} | {"r4": {"type": "open"}}
    (line,) = reference_lines(Path("mine.json"), with_checks(examples, checks))
    assert "mine.json" in line and "2 of 3" in line and line.endswith("r2, r3")
    assert reference_lines(Path("mine.json"), with_checks(examples[:1], checks)) == []
    assert reference_lines(Path("mine.json"), with_checks(examples, {})) == []
    (line,) = reference_lines(Path("mine.json"), with_checks(examples[1:2] * 7, checks))
    assert "7 of 7" in line and line.endswith("2 more")


def test_units_that_are_compared_with_nothing_are_named_unless_the_question_counts_them():
    asked = {"r1": "What is the limit?", "r2": "How many red apples are there?", "r3": "How far is it?"}
    examples = [Example(id=id_, instruction=text, input="", output="2") for id_, text in asked.items()]
    units = zip(asked, ("GiB", "apples", "km"), strict=True)
    checks = {id_: {"type": "number", "value": 2, "unit": unit} for id_, unit in units}
    (line,) = unit_lines(Path("mine.json"), with_checks(examples, checks))
    assert "mine.json" in line and line.endswith(": GiB")
    assert unit_lines(Path("mine.json"), with_checks(examples[1:], checks)) == []


# A folder of one's own


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The project's settings with the random backbone and sixty records, committed."""
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models/backbones.yaml", tmp_path / "models")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changes = {"backbone": "gpt2-tiny-random", "data": "mine.json", "warmup_steps": "2"}
    for name, value in changes.items():
        text = re.sub(rf"^  {name}: [^ \n]+", f"  {name}: {value}", text, count=1, flags=re.M)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "mine.json").write_text(json.dumps(DATA), encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/checks.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    git("init", "--quiet")
    commit("params.yaml", "models")
    return tmp_path


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments], check=True)


def commit(*names):
    git("add", *names)
    git("commit", "--quiet", "-m", "x")


def change(old, new):
    path = Path("params.yaml")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_only_settings_that_are_not_as_committed_are_printed(folder):
    shown = [line for line in check_all(None).lines if " = " in line]
    assert shown == []
    change("warmup_steps: 2", "warmup_steps: 3")
    shown = [line for line in check_all(None).lines if " = " in line]
    assert [line.split(" = ")[0] for line in shown] == ["train.warmup_steps"]
    assert "3" in shown[0] and "committed: 2" in shown[0]
    assert len([line for line in check_all(None, every=True).lines if " = " in line]) > 80


def test_a_committed_file_that_cannot_be_read_has_every_setting_printed(folder):
    whole = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text("a: [\n", encoding="utf-8")
    commit("params.yaml")
    Path("params.yaml").write_text(whole, encoding="utf-8")
    assert len(setting_lines({"train": TRAIN}, Path("params.yaml"), every=False)) > 20


def warned(data="mine.json"):
    return tracking_lines(Path.cwd(), Path(data))


def test_data_that_nothing_tracks_is_named_with_the_command(folder):
    (line,) = warned()
    assert "mine.json" in line and "`dvc add mine.json`" in line
    assert any("dvc add" in one for one in check_all(None).lines)
    commit("mine.json")
    assert warned() == []
    assert not any("dvc add" in one for one in check_all(None).lines)


def test_without_git_nothing_is_said_of_tracking(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("[]")
    assert warned() == []


def test_records_that_would_stop_training_fail_the_check_of_the_file_and_warn_in_the_brief_one(folder):
    change("max_length: 1024", "max_length: 60")
    assert any("train.max_length 60" in line for line in check_all(None).lines)
    assert any("train.max_length 60" in line for line in check_all(Path("mine.json")).problems)


def test_a_split_that_cannot_be_made_hides_no_finding_and_names_a_setting_that_helps(folder):
    rows = [{"instruction": "Translate into French.", "input": word, "output": "..."} for word in "abcdefghij" * 3]
    rows = [{**row, "input": f"{row['input']}{chr(0x4E00 + 7 * i)}"} for i, row in enumerate(rows)]
    Path("mine.json").write_text(json.dumps(rows), encoding="utf-8")
    checked = check_all(None)
    assert any("empty_answer" in line for line in checked.problems)
    (refusal,) = [line for line in checked.problems if "near-duplicates" in line]
    assert "split.duplicates.on: input" in refusal
    change("on: prompt", "on: input")
    assert not [line for line in check_all(None).problems if "near-duplicates" in line]


def test_few_chats_under_one_system_message_are_told_a_setting_that_splits_them(folder):
    system = "You are an assistant of a company with a long name. Answer briefly, politely and in plain words only."
    chats = [[system, f"What is {i} and {i}?", f"It is number {2 * i}."] for i in range(30)]
    roles = ("system", "user", "assistant")
    rows = [{"messages": [{"role": r, "content": c} for r, c in zip(roles, chat, strict=True)]} for chat in chats]
    Path("mine.json").write_text(json.dumps(rows), encoding="utf-8")
    (refusal,) = check_all(None).problems
    key, value = re.search(r"set split\.([a-z.]+): (\w+)", refusal).groups()
    old = {"duplicates.on": "on: prompt", "duplicates.similarity": "similarity: 90.0", "strategy": "strategy: grouped"}[
        key
    ]
    change(old, f"{key.split('.')[-1]}: {value}")
    assert check_all(None).problems == []


def test_a_reference_answer_that_fails_is_found_by_a_check_in_the_record_or_in_the_file(folder):
    first, second = DATA[:2]
    wrong = {"type": "accept", "accept": ["zyzzyva"]}
    rows = [{**first, "check": wrong}, *DATA[1:]]
    Path("mine.json").write_text(json.dumps(rows), encoding="utf-8")
    ids = Ids()
    made = [ids.make(row) for row in (first, second)]
    Path("data/checks.json").write_text(json.dumps({made[1]: wrong}), encoding="utf-8")
    (line,) = [line for line in check_all(None).lines if "reference answers" in line]
    assert all(id_ in line for id_ in made)


def test_checks_that_match_no_record_are_counted_if_the_file_is_that_of_the_data(folder):
    check = {"type": "accept", "accept": ["zyzzyva"]}
    Path("data/checks.json").write_text(json.dumps({"0": check, Ids().make(DATA[0]): check}), encoding="utf-8")
    (line,) = [line for line in check_all(None).lines if line.startswith("warning: data/checks.json: ")]
    assert "1 of 2 checks match no record of mine.json" in line and "split.checks" in line
    assert not [line for line in check_all(Path("mine.json")).lines if "match no record" in line]
    Path("data/checks.json").write_text("{}", encoding="utf-8")
    assert not [line for line in check_all(None).lines if "match no record" in line]


def test_an_answer_that_many_records_share_is_told_with_its_share():
    examples = [Example(id=str(i), instruction=f"Is {i} odd?", input="", output="Yes, it is.") for i in range(20)]
    (line,) = common_lines(Path("mine.json"), examples)
    assert line.startswith("note: mine.json: ") and "100.0%" in line and "yes, it is." in line
    others = [replace(one, output=f"It is {one.id}.") for one in examples]
    assert common_lines(Path("mine.json"), [*others, *examples[:5]])
    assert common_lines(Path("mine.json"), [*others, *examples[:4]]) == []
    assert common_lines(Path("mine.json"), examples[:3]) == common_lines(Path("mine.json"), []) == []


def test_answers_of_a_method_that_is_off_are_named(tmp_path):
    for name in ("README.md", "dpo.json", "ipo.json"):
        (tmp_path / name).write_text("[]")
    assert left_over(["dpo", "ipo"], tmp_path, tmp_path / "none") == []
    [line] = left_over(["ipo"], tmp_path, tmp_path / "none")
    assert line.startswith(f"{tmp_path / 'dpo.json'}: ") and "prefer.methods" in line


def test_numbers_of_preference_tuning_that_is_off_are_named(tmp_path):
    for name in ("README.md", "pairs.json", "val.csv"):
        (tmp_path / name).write_text("")
    assert left_over(["dpo"], tmp_path / "none", tmp_path) == []
    assert [line.split(": ")[0] for line in left_over([], tmp_path / "none", tmp_path)] == [
        str(tmp_path / name) for name in ("pairs.json", "val.csv")
    ]


# What stages would refuse


PAIR = {"prompt": "Name a bird.", "chosen": "An owl.", "rejected": "A bat."}


@pytest.mark.parametrize(
    ("old", "new", "begins", "names"),
    [
        ("rubric: ", "rubric: nope #", "evaluate.rubric: nope is not a rubric", ""),
        ("checks: ", "checks: none.json #", "split.checks: none.json: there is no such file", ""),
        ("checks: ", "checks: models #", "split.checks: models: is a folder", ""),
        ("checks: ", "checks: broken.json #", "split.checks: broken.json:1:", "not JSON"),
        ("checks: ", "checks: list.json #", "split.checks: list.json: must be an object", ""),
        ("  generate: ", "  generate: nope x #", "launch.generate: there is no program nope", "install it"),
        ("launch:", "launch: {train: A=1 no/where, generate: python} #", "launch.train: there is no program no/wh", ""),
        ("  generate: ", "  generate: '' #", "launch.generate: names no program", ""),
        ("  generate: ", "  generate: 'a \"b' #", "launch.generate: ", "quote"),
        ("data: mine.json", 'data: ""', "params.yaml: split.data", "empty"),
    ],
)
def test_a_setting_that_would_stop_a_stage_is_one_problem(folder, old, new, begins, names):
    (folder / "broken.json").write_text("{")
    (folder / "list.json").write_text("[]")
    if old == "launch:":
        change("  train: python\n  generate: python\n", "")
    change(old, new)
    (problem,) = check_all(None).problems
    assert problem.startswith(begins) and names in problem


@pytest.mark.parametrize("command", ["python", "OMP_NUM_THREADS=1 python -u", "sh -c", "exec python", "$PYTHON -u"])
def test_a_program_that_the_shell_finds_is_no_problem(folder, command):
    change("  generate: python", f"  generate: {command}")
    assert check_all(None).problems == []


def test_a_file_of_pairs_is_read_only_where_a_method_asks_for_it(folder):
    place = folder / "data/preferences.jsonl"
    for content in (None, "", '{"prompt": "a"}\n'):
        if content is not None:
            place.write_text(content)
        assert check_all(None).problems == []
    change("  methods: []               # [] (none", "  methods: [dpo] # (none")
    assert all(line.startswith("pairs.file: data/preferences.jsonl:") for line in check_all(None).problems)
    for content in ("", '{"prompt": "a"}\n'):
        place.write_text(content)
        first, *_ = check_all(None).problems
        assert "data/preferences.jsonl" in first and "pairs.file" in first
    place.write_text(json.dumps(PAIR) + "\n")
    assert check_all(None).problems == []
    place.write_text("")
    change("source: file ", "source: on-policy ")
    assert check_all(None).problems == []
