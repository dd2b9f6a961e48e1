"""src/reference.py and src/prefer.py on files: what they leave, and what they refuse."""

import csv
import json
import logging
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from preference.test_settings import VALUES
from safetensors.torch import load_file as safe_load
from small_training import CPU, byte_tokenizer, lora_params

from instruct.backbones.catalog import find_backbone
from instruct.core.errors import CheckpointError, DataError, InstructError, ParamsError
from instruct.core.files import write_json
from instruct.core.pairs import Pair, read_pairs
from instruct.core.records import write_records
from instruct.model import pretrained
from instruct.model.checkpoint import random_model, save_adapter, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.model.lora import add_lora
from instruct.model.pretrained import load_backbone, load_trained
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import Tokenizer

SOURCE = Path(__file__).parents[2] / "src"
REFERENCE = ["data/pairs", "models/sft/best", "data/reference.json"]
PREFER = ["data/pairs", "data/described.json", "data/reference.json", "models/sft/best", "models/dpo"]
PREFER += ["metrics/preferred/prefer.json", "metrics/preferred"]
CHECKPOINT = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", *CHECKPOINT[1:2], *CHECKPOINT[3:])
CONFIG = GPT2Config(vocab_size=257, n_positions=256, n_embd=16, n_layer=1, n_head=2, eos_token_id=256)
WORDS = ("yes", "no", "maybe", "surely", "never", "often")


def pairs_of(count: int, start: int = 0) -> list[Pair]:
    """Answers in upper case are better."""
    pairs = []
    for i in range(start, start + count):
        word = WORDS[i % 6] * (1 + i % 3)
        pairs.append(Pair(id=f"p{i}", instruction=f"Say {i}.", input="", output=word.upper(), rejected=word))
    return pairs


def write_params(folder: Path, **changes: Any) -> None:
    settings = {"lr": 3e-3, "micro_batch_size": 4, "eval_every": 2, "max_length": 200, "save_minutes": 1e-9}
    params = {
        "prompt": {"template": "phi3", "system": "default"},
        "runtime": {"device": "cpu", "precision": "fp32", "num_threads": 1},
        "prefer": {**VALUES, **settings, **changes},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.fixture
def place(tmp_path, monkeypatch, one_thread) -> Path:
    """A folder with settings, pairs and an SFT checkpoint, in which the stages run."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    write_records(tmp_path / "data/pairs/train.json", pairs_of(16))
    write_records(tmp_path / "data/pairs/val.json", pairs_of(6, start=16))
    write_json(tmp_path / "data/described.json", {"baselines": {"longer": 50.0, "words": 75.0}})
    save_checkpoint(random_model(CONFIG, seed=1), byte_tokenizer(), Path("models/sft/best"), None, TEMPLATES["phi3"])
    return tmp_path


def stage(name: str, paths: list[str]) -> Callable[[], None]:
    return partial(runpy.run_path(str(SOURCE / f"{name}.py"), run_name="stage")["main"], *map(Path, paths))


def reference() -> None:
    stage("reference", REFERENCE)()


def prefer() -> None:
    stage("prefer", PREFER)()


def outputs(folder: Path) -> dict[str, bytes]:
    files = [file for top in ("models/dpo", "metrics") for file in (folder / top).rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def log_prob(model: torch.nn.Module, prompt: str, answer: str, tokenizer: Tokenizer | None = None) -> float:
    """By one forward pass over one answer with its end token."""
    tokenizer = tokenizer or byte_tokenizer()
    begin = tokenizer.encode(prompt)
    ids = [*begin, *tokenizer.encode(answer), tokenizer.eos_id]
    with torch.no_grad():
        scores = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    return sum(float(scores[i - 1, ids[i]]) for i in range(len(begin), len(ids)))


@pytest.mark.parametrize("r", [0, 2])
def test_stages_leave_checkpoints_or_adapters_whose_margin_is_the_logged_one(place, caplog, r):
    caplog.set_level(logging.INFO)
    lora = {**VALUES["lora"], "r": r}
    write_params(place, lora=lora, lr=3e-2 if r else 3e-3, epochs=2)
    reference()
    sft = load_trained(Path("models/sft/best"), CPU)[0]
    stored = json.loads((place / "data/reference.json").read_text())
    pair = read_pairs(place / "data/pairs/val.json")[3]
    prompt = TEMPLATES["phi3"].render(pair.instruction)
    expected = [log_prob(sft, prompt, answer) for answer in (pair.output, pair.rejected)]
    assert stored["val"][pair.id] == pytest.approx(expected, rel=1e-5)

    prefer()
    metrics = json.loads((place / "metrics/preferred/prefer.json").read_text())
    metrics |= metrics.pop("details")[0]
    assert (metrics["initial_val_loss"], metrics["initial"]["accuracy"], metrics["initial"]["margin"]) == (
        0.6931,
        0.5,
        0,
    )
    assert metrics["train"]["pairs"] == 16 and metrics["val"]["identical"] == 0 and metrics["steps"] == 8
    names = {f"models/dpo/{which}/{name}" for which in ("best", "last") for name in (ADAPTER if r else CHECKPOINT)}
    curves = {"metrics/preferred/train.csv", "metrics/preferred/val.csv"}
    assert set(outputs(place)) == names | curves | {"metrics/preferred/prefer.json"}
    for which in ("best", "last"):
        model = load_trained(place / "models/dpo" / which, CPU)[0]
        margins = []
        for pair in read_pairs(place / "data/pairs/val.json"):
            prompt = TEMPLATES["phi3"].render(pair.instruction)
            chosen, rejected = (log_prob(model, prompt, text) for text in (pair.output, pair.rejected))
            before = stored["val"][pair.id]
            margins.append(VALUES["beta"] * (chosen - before[0] - rejected + before[1]))
        assert metrics[which]["margin"] == pytest.approx(sum(margins) / len(margins), abs=2e-4)
        assert metrics[which]["accuracy"] == round(sum(margin > 0 for margin in margins) / len(margins), 4)
    assert metrics["best"]["accuracy"] > 0.8 and metrics["best"]["margin"] > 0.05
    with (place / "metrics/preferred/train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and list(rows[0])[:6] == ["step", "epoch", "tokens", "lr", "loss", "grad_norm"]
    assert {"reward_chosen", "reward_rejected", "margin", "accuracy", "chosen_log_prob", "kl"} < set(rows[0])
    assert float(rows[-1]["margin"]) > float(rows[0]["margin"])
    assert "held-out loss 0.6931, accuracy 0.50 (the longer answer 0.50, a bag of words 0.75)" in caplog.text
    assert metrics["baselines"] == {"longer": 0.5, "words": 0.75}
    evaluations = [record.getMessage() for record in caplog.records if "accuracy" in record.getMessage()]
    assert len(evaluations) == 5 and all("a bag of words 0.75" in line for line in evaluations)
    assert not (place / "models/resume/dpo").exists() and (place / "models/speed-dpo.json").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("base", ["int8", "nf4"])
def test_the_reference_is_the_rounded_model_where_training_starts_from_a_rounded_one(place, base):
    """DPO starts as its reference: no margin, and the loss of a coin."""
    write_params(place, lora={**VALUES["lora"], "r": 2, "base": base})
    reference()
    prefer()
    metrics = json.loads((place / "metrics/preferred/prefer.json").read_text())
    assert metrics["initial_val_loss"] == round(math.log(2), 4) and metrics["details"][0]["initial"]["margin"] == 0


def test_second_run_gives_the_same_bytes(place):
    reference()
    first = (place / "data/reference.json").read_bytes()
    prefer()
    before = outputs(place)
    shutil.rmtree(place / "models/dpo")
    reference()
    prefer()
    assert outputs(place) == before and (place / "data/reference.json").read_bytes() == first


def test_training_holds_one_model(place, monkeypatch):
    reference()
    loaded = []
    load = pretrained.load_trained
    monkeypatch.setattr(pretrained, "load_trained", lambda *args: loaded.append(args) or load(*args))
    prefer()
    assert len(loaded) == 1


def test_reference_serves_all_losses_of_a_sweep(place):
    reference()
    first = []
    for loss, beta in (("sigmoid", 0.5), ("ipo", 0.1), ("sigmoid_norm", 5.0)):
        write_params(place, loss=loss, beta=beta, seed=7)
        prefer()
        first.append(json.loads((place / "metrics/preferred/prefer.json").read_text())["initial_val_loss"])
    assert first == [0.6931, 25.0, 0.6931]


def test_reference_of_an_sft_adapter_is_the_merged_model_and_not_its_base(place):
    shutil.copy(SOURCE.parent / "models/backbones.yaml", place / "models/backbones.yaml")
    backbone = find_backbone("gpt2-tiny-random")
    model, tokenizer = load_backbone(backbone, CPU)
    add_lora(model, lora_params(r=2), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_B"):
                weight.normal_(generator=torch.Generator().manual_seed(1))
    shutil.rmtree(place / "models/sft/best")
    save_adapter(model, tokenizer, Path("models/sft/best"), backbone, None, TEMPLATES["phi3"])
    write_params(place, lora={**VALUES["lora"], "r": 2}, lr=1e-2)
    reference()
    prefer()
    stored = json.loads((place / "data/reference.json").read_text())
    pair = read_pairs(place / "data/pairs/val.json")[2]
    prompt = TEMPLATES["phi3"].render(pair.instruction)
    merged, bare = (
        [log_prob(one, prompt, answer, tokenizer) for answer in (pair.output, pair.rejected)]
        for one in (load_trained(Path("models/sft/best"), CPU)[0], load_backbone(backbone, CPU)[0])
    )
    assert stored["val"][pair.id] == pytest.approx(merged, rel=1e-5) != pytest.approx(bare, rel=1e-2)
    metrics = json.loads((place / "metrics/preferred/prefer.json").read_text())
    assert (metrics["initial_val_loss"], metrics["details"][0]["initial"]["margin"]) == (0.6931, 0)
    assert sorted(file.name for file in (place / "models/dpo/best").iterdir()) == sorted(ADAPTER)
    tuned, _ = load_trained(Path("models/dpo/best"), CPU)
    sft, _ = load_trained(Path("models/sft/best"), CPU)
    added = safe_load(Path("models/dpo/best/adapter_model.safetensors"))
    name = "transformer.h.0.mlp.c_fc"
    a, b = (added[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    weight, before = (dict(one.named_modules())[name.removeprefix("transformer.")].weight for one in (tuned, sft))
    assert torch.allclose(weight, before + VALUES["lora"]["alpha"] / 2 * (b @ a), atol=1e-6)


def test_an_adapter_whose_sft_checkpoint_is_another_or_gone_is_refused(place):
    write_params(place, lora={**VALUES["lora"], "r": 2}, lr=1e-2)
    reference()
    prefer()
    load_trained(Path("models/dpo/best"), CPU)
    change_checkpoint()
    with pytest.raises(CheckpointError, match=r"^models/dpo/best: was trained on another checkpoint.*models/sft/best"):
        load_trained(Path("models/dpo/best"), CPU)
    shutil.rmtree(place / "models/sft/best")
    with pytest.raises(CheckpointError, match=r"^models/dpo/best: is an adapter of models/sft/best, which is missing"):
        load_trained(Path("models/dpo/best"), CPU)


@pytest.mark.parametrize(
    "content", [{}, [], {"baselines": {}}, {"baselines": {"longer": "50"}}, {"baselines": {"longer": 50, "words": 101}}]
)
def test_pairs_without_what_simple_rules_tell_are_refused(place, content):
    write_json(place / "data/described.json", content)
    with pytest.raises(DataError, match=r"^data/described\.json: .*run the stage `pairs` again$"):
        prefer()


def test_reward_accuracy_that_a_simple_rule_reaches_is_a_warning(place, caplog):
    reference()
    for longer, words, rule in ((3.0, 60.0, "the shorter answer"), (50.0, 60.0, "")):
        write_json(place / "data/described.json", {"baselines": {"longer": longer, "words": words}})
        caplog.clear()
        write_params(place, lr=3e-3 if not rule else 1e-9)
        prefer()
        found = json.loads((place / "metrics/preferred/prefer.json").read_text())["details"][0]["warnings"]
        assert any(rule in line for line in found) if rule else not any("alone tells" in line for line in found)
        assert all(line in caplog.text for line in found)


def change_checkpoint() -> None:
    save_checkpoint(random_model(CONFIG, seed=2), byte_tokenizer(), Path("models/sft/best"), None, TEMPLATES["phi3"])


def change_template() -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("template: phi3", "template: alpaca"))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_checkpoint, "another checkpoint;"),
        (change_template, "another template;"),
        (lambda: write_records(Path("data/pairs/val.json"), pairs_of(7, start=16)), "another pairs of val;"),
        (lambda: write_params(Path(), max_length=100), "another prefer.max_length;"),
        (lambda: write_params(Path(), lora={**VALUES["lora"], "r": 2, "base": "nf4"}), "another prefer.lora.base;"),
    ],
)
def test_reference_of_something_else_is_refused_by_name(place, change, name):
    reference()
    change()
    with pytest.raises(DataError, match=f"^data/reference.json: was made from {name} run the stage `reference` again$"):
        prefer()
    assert not (place / "models/dpo").exists()


@pytest.mark.parametrize("content", [[], {"made_from": {}}, {"made_from": 3}, {"train": {}}])
def test_file_that_holds_no_reference_is_refused(place, content):
    write_json(place / "data/reference.json", content)
    with pytest.raises(DataError, match=r"^data/reference\.json: .*run the stage `reference` again$"):
        prefer()


def test_reference_that_lacks_a_pair_is_refused(place):
    reference()
    values = json.loads((place / "data/reference.json").read_text())
    del values["train"]["p3"]
    write_json(place / "data/reference.json", values)
    with pytest.raises(DataError, match=r"does not hold the log-probs of these pairs"):
        prefer()


@pytest.mark.parametrize(
    ("part", "pairs", "words"),
    [
        ("train", [], "holds no pairs"),
        ("val", [], "holds no pairs"),
        ("train", pairs_of(1), "holds one pair that can be used"),
        ("train", [*pairs_of(2), *pairs_of(1)], "two pairs have the id p0"),
        ("train", [Pair(id="a", instruction="Say.", input="", output="1", rejected="1")], "equals the rejected one"),
        ("train", [Pair(id="a", instruction="Say.", input="", output="1", rejected="2" * 200)], "pair a: 229 tokens"),
    ],
)
def test_pairs_that_cannot_be_learnt_from_are_refused_with_their_file(place, part, pairs, words):
    write_records(place / f"data/pairs/{part}.json", pairs)
    for run in (reference, prefer):
        with pytest.raises(DataError, match=rf"^data/pairs/{part}\.json: .*{words}"):
            run()


def test_missing_files_are_named(place):
    with pytest.raises(DataError, match=r"^data/reference\.json: there is no such file"):
        prefer()
    shutil.rmtree(place / "models/sft")
    for run in (reference, prefer):
        with pytest.raises((CheckpointError, DataError), match=r"^models/sft/best/config\.json: there is no such file"):
            run()


def test_settings_that_make_no_sense_are_refused(place):
    write_params(place, beta=0.0)
    with pytest.raises(ParamsError, match=r"params\.yaml: prefer\.beta must be above 0, is 0\.0"):
        reference()
    write_params(place, parallel="ddp")
    reference()
    with pytest.raises(ParamsError, match=r"params\.yaml: prefer\.parallel is ddp, but torchrun did not start"):
        prefer()
    write_params(place, lora={**VALUES["lora"], "r": 4, "target_modules": ["q_proj"]})
    with pytest.raises(ParamsError, match=r"params\.yaml: prefer\.lora\.target_modules: no layer is called q_proj"):
        prefer()


def test_loss_that_is_not_a_number_ends_the_stage_without_a_model(place):
    write_params(place, beta=10.0)
    reference()
    values = json.loads((place / "data/reference.json").read_text())
    values["train"]["p3"] = [1.7e308, -1.7e308]
    write_json(place / "data/reference.json", values)
    with pytest.raises(
        InstructError, match=r"^step \d+: the loss is (inf|nan).*; lower prefer\.lr or look at the records"
    ):
        prefer()
    assert not (place / "models/dpo").exists()


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_bytes(place):
    write_params(place, epochs=10, eval_every=5)
    reference()
    prefer()
    unbroken = outputs(place)
    shutil.rmtree(place / "models/dpo")
    command = [sys.executable, str(SOURCE / "prefer.py"), *PREFER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (place / "models/resume/dpo/state.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (place / "models/dpo/best").exists()
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    again = outputs(place)
    assert "going on after step" in ended.stdout
    assert again == unbroken
