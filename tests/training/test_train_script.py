"""What src/train.py gives to the training loop: its records, its adapters, and what marks the state of a run."""

import runpy
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_training import BFLOAT16, FLOAT32, byte_tokenizer, drawn_adapters, lora_params, train_params

from instruct.backbones.catalog import Backbone
from instruct.core.records import Example, Turn, write_records
from instruct.model.checkpoint import random_model
from instruct.model.gpt2 import GPT2Config
from instruct.text.tokenizer import END_OF_TEXT, Tokenizer, make_tokenizer

SCRIPT = Path(__file__).parents[2] / "src" / "train.py"
PATHS = ("data/split", "models/sft", "metrics/train.json", "metrics/curves")
ROOM = 512  # of the model, in tokens
STOP = 258
CONFIG = GPT2Config(vocab_size=259, n_positions=ROOM, n_embd=8, n_layer=1, n_head=2, eos_token_id=256)
SHORT = Example(id="short", instruction="Hi", input="", output="Yo")
LONG = Example(id="long", instruction="Hi", input="", output="Yo " * 200)
CHAT = replace(SHORT, id="chat", history=(Turn("A", "", "No"),))


class Trained(Exception):
    """Training would begin now, with these arguments."""


def chatml_tokenizer() -> Tokenizer:
    """A token for each byte; the backbone's own end token is not the one of ChatML."""
    special = {END_OF_TEXT: 256, "<|im_start|>": 257, "<|im_end|>": STOP}
    tokens = [*(bytes([value]) for value in range(256)), *(name.encode() for name in special)]
    return make_tokenizer(tokens, special, "gpt2", eos_id=256)


@pytest.fixture
def begin(tmp_path, monkeypatch, one_thread) -> Callable[..., Mapping[str, Any]]:
    """Run the script on a small model up to its training; gives the arguments of the Trainer."""
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "data/split/train.json", [SHORT, CHAT])
    write_records(tmp_path / "data/split/val.json", [SHORT])

    def run(
        *, template: str = "phi3", precision: str = "fp32", backbone: str = "small", tokenizer: Tokenizer | None = None,
        **changes: Any,
    ) -> Mapping[str, Any]:  # fmt: skip
        params = {
            "model": {"backbone": backbone},
            "prompt": {"template": template, "system": "default"},
            "runtime": {"device": "cpu", "precision": precision, "num_threads": 1},
            "train": asdict(train_params(**{"max_length": 1000, **changes})),
        }
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        bases: list[str] = []
        main = runpy.run_path(str(SCRIPT), run_name="stage")["main"]

        def trainer(model: object, train_set: object, val_set: object, **rest: object) -> None:
            raise Trained({"bases": bases, "model": model, "train_set": train_set, "val_set": val_set, **rest})

        main.__globals__.update(
            find_backbone=lambda name: Backbone(
                name=name, family="gpt2", format="random", licence="-", about="-", files=()
            ),
            load_backbone=lambda backbone, device: (random_model(CONFIG, seed=1), tokenizer or byte_tokenizer()),
            start_runtime=lambda params: BFLOAT16 if params.precision == "bf16" else FLOAT32,
            quantise_frozen=lambda model, base: bases.append(base),
        )
        monkeypatch.setattr("instruct.training.outputs.Trainer", trainer)
        with pytest.raises(Trained) as caught:
            main(*map(Path, PATHS))
        arguments: Mapping[str, Any] = caught.value.args[0]
        return arguments

    return run


def parts(arguments: Mapping[str, Any]) -> dict[str, str]:
    return dict(arguments["store"]._fingerprint.parts)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"lr": 0.002}, "params train"),
        ({"template": "chatml"}, "params prompt"),
        ({"precision": "bf16"}, "params runtime"),
        ({"backbone": "another"}, "params backbone"),
        ({"save_minutes": 7.0}, None),
    ],
)
def test_state_is_of_another_run_where_a_setting_of_training_differs(begin, changes, part):
    before, now = parts(begin()), parts(begin(**changes))
    assert {name for name in before if before[name] != now[name]} == ({part} if part else set())


@pytest.mark.parametrize("name", ["train", "val"])
def test_state_is_of_another_run_where_the_records_differ(begin, name):
    file = f"data/split/{name}.json"
    before = parts(begin())
    write_records(Path(file), [replace(SHORT, output="No")])
    now = parts(begin())
    assert {part for part in before if before[part] != now[part]} == {file}


def test_answers_end_with_the_end_token_of_the_template(begin):
    """Else generation, which waits for the template's, would meet a model that never learnt it."""
    arguments = begin(template="chatml", tokenizer=chatml_tokenizer())
    assert {example.ids[-1] for example in [*arguments["train_set"], *arguments["val_set"]]} == {STOP}


@pytest.mark.parametrize(("most", "longest"), [(1000, ROOM + 1), (40, 40)])
def test_no_record_is_longer_than_the_setting_or_than_the_model_has_room_for(begin, most, longest):
    """The last token is a target alone: it needs no place."""
    write_records(Path("data/split/train.json"), [LONG])
    (example,) = begin(max_length=most, over_long="truncate")["train_set"]
    assert len(example.ids) == longest


@pytest.mark.parametrize(("turns", "answers"), [("all", 2), ("last", 1)])
def test_chats_are_learnt_from_as_the_setting_says(begin, turns, answers):
    write_records(Path("data/split/train.json"), [CHAT])
    (example,) = begin(turns=turns)["train_set"]
    assert len(example.later_prompts) == answers - 1


def test_adapters_are_drawn_from_the_seed(begin):
    one, same, other = (drawn_adapters(begin(seed=seed, lora=lora_params(r=2))["model"]) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("base", ["fp32", "nf4"])
def test_frozen_weights_are_kept_as_the_setting_says(begin, base):
    assert begin(lora=lora_params(r=2, base=base))["bases"] == [base]
