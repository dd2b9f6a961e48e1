"""What src/pairs.py asks for, reads and writes: how answers are drawn, what marks those begun, what is held out."""

import json
import runpy
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML
from small_training import BFLOAT16, FLOAT32, byte_tokenizer
from training.test_train_script import CONFIG, STOP, chatml_tokenizer, parts

from instruct.core.errors import DataError
from instruct.core.files import write_json
from instruct.core.records import Example, write_records
from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
MAIN: Callable[..., None] = runpy.run_path(str(ROOT / "src/pairs.py"), run_name="stage")["main"]
SETTINGS = YAML(typ="safe").load(ROOT / "params.yaml")
SFT = Path("models/sft/best")
PATHS = ("data/split", SFT, "data/pairs", "metrics/preferred/pairs.json")
TREES = ["oak", "elm", "ash", "fir", "yew", "box", "bay", "fig"]
HELD_OUT = {
    "val": Example(id="v", instruction="Which planet is the largest of all?", input="", output="Jupiter."),
    "test": Example(id="t", instruction="How do you boil an egg for ten people?", input="", output="In water."),
}


class Asked(Exception):
    """The model would be asked now, with these arguments."""


def save_model(seed: int = 1, tokenizer: Tokenizer | None = None) -> None:
    save_checkpoint(random_model(CONFIG, seed=seed), tokenizer or byte_tokenizer(), SFT, None, TEMPLATES["phi3"])


def write_settings(**changes: Any) -> None:
    """The committed settings with some that differ, each by its section and name, `pairs.on_policy.samples` for one."""
    values = deepcopy(SETTINGS)
    values["runtime"] |= {"device": "cpu", "precision": "fp32", "num_threads": 1}
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = values
        for one in sections:
            section = section[one]
        section[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def write_train(*answers: str) -> None:
    examples = [Example(id=f"r{i}", instruction=f"{i}?", input="", output=one) for i, one in enumerate(answers)]
    write_records(Path("data/split/train.json"), examples)


def write_pairs(*prompts: str) -> None:
    rows = [{"prompt": one, "chosen": f"{one} Yes, gladly.", "rejected": "No."} for one in prompts]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(tmp_path, monkeypatch, one_thread) -> None:
    """A folder with a split, in which the stage runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/backbones.yaml").symlink_to(ROOT / "models/backbones.yaml")
    write_train("Yes.", "No.")
    write_json(Path("data/split/train-checks.json"), {})
    for part, example in HELD_OUT.items():
        write_records(Path(f"data/split/{part}.json"), [example])


@pytest.fixture
def ask(place, monkeypatch) -> Callable[..., Mapping[str, Any]]:
    """Run the script up to its first question to the model; gives the arguments of `answer_together`."""
    save_model()

    def answers(model: object, tokenizer: object, asked: object, **rest: object) -> None:
        raise Asked({"tokenizer": tokenizer, "asked": asked, **rest})

    monkeypatch.setitem(MAIN.__globals__, "answer_together", answers)
    monkeypatch.setitem(
        MAIN.__globals__, "start_runtime", lambda params: BFLOAT16 if params.precision == "bf16" else FLOAT32
    )

    def run(**changes: Any) -> Mapping[str, Any]:
        write_settings(**{"pairs.source": "on-policy", "prompt.template": "phi3", **changes})
        with pytest.raises(Asked) as caught:
            MAIN(*map(Path, PATHS))
        arguments: Mapping[str, Any] = caught.value.args[0]
        return arguments

    return run


def test_answers_are_drawn_as_pairs_say_and_not_as_the_test_set_is_answered(ask):
    """Greedy answers, a vote or rounded weights would be no samples of the SFT model."""
    others = {"temperature": 0.1, "top_p": 0.2, "top_k": 3, "num_samples": 4, "weights": "int8", "seed": 9}
    own = {"pairs.on_policy.temperature": 0.7, "pairs.on_policy.top_p": 0.8, "pairs.seed": 5}
    drawn = ask(**{f"generate.{name}": value for name, value in others.items()}, **own)["params"]
    assert (drawn.temperature, drawn.top_p, drawn.seed) == (0.7, 0.8, 5)
    assert (drawn.top_k, drawn.num_samples, drawn.weights) == (0, 1, "fp32")


def test_train_prompts_alone_are_asked_as_often_as_the_setting_says(ask):
    assert [one.id for one in ask(**{"pairs.on_policy.samples": 3})["asked"]] == [
        f"r{record}#{sample}" for record in range(2) for sample in range(3)
    ]


def test_answers_are_awaited_until_the_end_token_of_the_template(ask):
    save_model(tokenizer=chatml_tokenizer())
    assert ask(**{"prompt.template": "chatml"})["tokenizer"].eos_id == STOP


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"pairs.on_policy.temperature": 0.7}, "params generate"),
        ({"pairs.seed": 5}, "params generate"),
        ({"generate.max_new_tokens": 9}, "params generate"),
        ({"pairs.on_policy.samples": 3}, "params samples"),
        ({"prompt.template": "alpaca"}, "params prompt"),
        ({"runtime.precision": "bf16"}, "params runtime"),
        ({"model.backbone": "gpt2-tiny-random"}, "params backbone"),
        ({"pairs.on_policy.margin": 30.0}, None),
        ({"pairs.on_policy.rank": "checks"}, None),
    ],
)
def test_answers_begun_are_of_another_run_where_what_they_depend_on_differs(ask, changes, name):
    before, now = (parts({"store": ask(**one)["journal"]}) for one in ({}, changes))
    assert {part for part in before if before[part] != now[part]} == ({name} if name else set())


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (lambda: write_train("Yes.", "Never."), "data/split/train.json"),
        (lambda: save_model(seed=2), f"{SFT}/model.safetensors"),
    ],
)
def test_answers_begun_are_of_another_run_where_prompts_or_model_differ(ask, change, file):
    before = parts({"store": ask()["journal"]})
    change()
    now = parts({"store": ask()["journal"]})
    assert {part for part in before if before[part] != now[part]} == {file}


def made(**changes: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The prompts of both parts that the stage makes of pairs.jsonl, and what it tells of them."""
    write_settings(**{"pairs.source": "file", "pairs.file": "pairs.jsonl", "pairs.val": 0.25, **changes})
    MAIN(*map(Path, PATHS))
    files = {part: Path(f"data/pairs/{part}.json") for part in ("train", "val")}
    asked = {part: [one["instruction"] for one in json.loads(file.read_text())] for part, file in files.items()}
    return asked, json.loads(Path(PATHS[-1]).read_text())


@pytest.mark.parametrize("part", HELD_OUT)
def test_no_pair_resembles_a_record_of_val_or_test(place, part):
    write_pairs(HELD_OUT[part].instruction, *(f"What is an {tree}?" for tree in TREES))
    asked, found = made()
    assert found["dropped"]["leaked"] == 1
    assert HELD_OUT[part].instruction not in asked["train"] + asked["val"]


def test_pairs_are_held_out_by_their_own_seed(place):
    prompts = [f"What is an {tree}?" for tree in TREES]
    write_pairs(*prompts)
    drawn = [made(**{"pairs.seed": seed})[0] for seed in (1, 2, 3)]
    assert all(len(one["val"]) == 2 and sorted(one["train"] + one["val"]) == sorted(prompts) for one in drawn)
    assert len({tuple(one["val"]) for one in drawn}) > 1


def test_a_bad_pair_stops_the_stage_unless_it_may_be_dropped(place):
    write_pairs(*(f"What is an {tree}?" for tree in TREES))
    with Path("pairs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": "Why?", "chosen": "Because."}\n')
    with pytest.raises(DataError, match=r"^pairs\.jsonl:9: "):
        made()
    assert made(**{"pairs.invalid": "drop"})[1]["without"] == {"invalid": 1}
