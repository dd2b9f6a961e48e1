import json
import os
import resource
import shutil
import sys
import tempfile
from functools import partial
from hashlib import md5
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from small_training import (
    ALONE,
    CPU,
    byte_tokenizer,
    example,
    lora_params,
    make_trainer,
    open_store,
    random_examples,
    weights_of,
)

from instruct.backbones.catalog import Backbone
from instruct.core import inputs
from instruct.core.ended import forget_recorded
from instruct.core.errors import CheckpointError, InstructError
from instruct.core.files import read_csv
from instruct.core.records import Example
from instruct.model.checkpoint import random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.lora import add_lora
from instruct.model.pretrained import load_trained
from instruct.text.prompts import TEMPLATES
from instruct.training.history import History, TrainPoint, ValPoint
from instruct.training.outputs import TrainOutputs, write_results
from instruct.training.resume import STATE
from instruct.training.sample import SamplePrompt
from instruct.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
CONFIG = GPT2Config(vocab_size=257, n_positions=64, n_embd=8, n_layer=1, n_head=2, eos_token_id=256)
BACKBONE = Backbone(name="small", family="gpt2", format="random", licence="-", about="-", files=())
TRAIN_SET, VAL_SET = random_examples(12, seed=1), random_examples(4, seed=2)
RECORD = Example(id="v", instruction="Say it.", input="", output="x")


@pytest.fixture(autouse=True)
def quick(one_thread):
    """Small tensors."""


class Run:
    """A training run in a folder of its own, up to its outputs."""

    def __init__(
        self, folder: Path, *, r: int = 0, record: Example = RECORD, sample_tokens: int = 3, code: str = "1"
    ) -> None:
        self.folder, self.model = folder, random_model(CONFIG, seed=1)
        if r:
            add_lora(self.model, lora_params(r=r), seed=0)
        self.store = open_store(folder / "models" / "resume", code=code)
        sample = SamplePrompt(record, TEMPLATES["phi3"], sample_tokens)
        self.outputs = TrainOutputs(self.model, byte_tokenizer(), BACKBONE, ALONE, self.store, sample)
        self.best = folder / "models" / "sft" / "best"
        self.last = folder / "models" / "sft" / "last"

    def train(self, **changes: object) -> Trainer:
        # so fast that the later evaluations are worse
        settings = {"epochs": 2, "eval_every": 1, "lr": 0.3, "on_evaluation": self.outputs.show, **changes}
        trainer = make_trainer(self.model, self.store, TRAIN_SET, VAL_SET, **settings)
        with self.outputs.rescue(trainer):
            trainer.fit()
        return trainer

    def finish(self, trainer: Trainer) -> None:
        metrics = self.folder / "metrics"
        fitted = {"train": (TRAIN_SET, 2, 0), "val": (VAL_SET, 0, 1)}
        write = partial(write_results, fitted=fitted)
        self.outputs.finish(self.folder / "models" / "sft", metrics / "train.json", metrics / "curves", trainer, write)
        self.outputs.end(trainer, metrics / "train.json")


def test_an_input_that_changes_while_results_are_written_leaves_the_state_to_go_on_from(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: x, deps: [data.json], outs: [models]}}")
    (tmp_path / "data.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(inputs, "_watched", None)
    monkeypatch.setattr(inputs, "AGAIN_S", 0.0)
    inputs.watch_inputs()
    run = Run(tmp_path)
    trainer, written = run.train(), write_results

    def write(*args: object, **kwargs: object) -> None:
        written(*args, **kwargs)
        (tmp_path / "data.json").write_text("[1]")

    monkeypatch.setattr(sys.modules[__name__], "write_results", write)
    with pytest.raises(InstructError):
        run.finish(trainer)
    assert run.best.is_dir() and (run.store.folder / "state.safetensors").is_file()
    (tmp_path / "data.json").write_text("[]")
    run.outputs.end(trainer, tmp_path / "metrics/train.json")


def test_the_state_of_a_run_stays_until_dvc_has_recorded_what_it_made(tmp_path, monkeypatch):
    """DVC may be killed, or find the disk of its cache full, after the command has ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    run = Run(Path())
    run.store.folder = Path("models/resume/sft")
    trainer = run.train(save_minutes=0.0)
    trainer.save()
    run.finish(trainer)
    digest, state = md5(Path("metrics/train.json").read_bytes()).hexdigest(), run.store.folder / STATE
    lines = {"damaged": "stages: {", "of another run": "0" * 32, "recorded": digest}
    forget_recorded()
    for said, text in lines.items():
        lock = {"stages": {"split": {}, "train": {"outs": [{"path": "metrics/train.json", "md5": text}]}}}
        Path("dvc.lock").write_text(text if said == "damaged" else json.dumps(lock))
        assert state.exists(), said
        forget_recorded()
    assert not state.parent.exists()


@pytest.mark.parametrize(("by_dvc", "saved"), [(False, True), (True, False)])
def test_a_run_that_nothing_can_go_on_from_or_that_no_dvc_records_leaves_no_state(tmp_path, monkeypatch, by_dvc, saved):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if by_dvc:
        monkeypatch.setenv("DVC_STAGE", "train")
    run = Run(tmp_path)
    trainer = run.train(save_minutes=0.0)
    if saved:
        trainer.save()
    run.finish(trainer)
    assert not run.store.folder.exists()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_finished_run_leaves_checkpoints_metrics_and_curves_and_no_state(tmp_path):
    run = Run(tmp_path)
    run.finish(run.train())
    checkpoint = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert names(tmp_path) == [
        "metrics/curves/train.csv",
        "metrics/curves/val.csv",
        "metrics/train.json",
        *[f"models/sft/best/{name}" for name in checkpoint],
        *[f"models/sft/last/{name}" for name in checkpoint],
    ]
    assert not run.store.folder.exists()


def test_last_holds_the_final_weights_and_best_those_of_the_lowest_loss(tmp_path):
    run = Run(tmp_path)
    weights: dict[int, dict[str, bytes]] = {}
    trainer = run.train(on_evaluation=lambda point: weights.update({point.step: weights_of(run.model)}))
    run.finish(trainer)
    history = trainer.history
    lowest = min(history.val[1:], key=lambda point: point.loss).step
    assert 0 < lowest < history.step, "the lowest loss must lie between for this test to tell anything"
    for folder, step in ((run.best, lowest), (run.last, history.step)):
        loaded, tokenizer = load_trained(folder, CPU)
        assert weights_of(loaded) == weights[step]
        assert tokenizer.eos_id == 256
    assert json.loads((tmp_path / "metrics/train.json").read_text())["details"][0]["best_step"] == lowest


def test_adapter_run_leaves_adapters_only(tmp_path):
    run = Run(tmp_path, r=2)
    run.finish(run.train())
    for folder in (run.best, run.last):
        assert names(folder) == [
            "adapter_config.json", "adapter_model.safetensors", "generation_config.json", "tokenizer.json",
            "tokenizer_config.json",
        ]  # fmt: skip
        stored = load_file(folder / "adapter_model.safetensors")
        assert all(".lora_A." in name or ".lora_B." in name for name in stored)


def test_outputs_of_an_earlier_run_are_replaced_whole(tmp_path):
    """A plain checkpoint after one with adapters: else the old adapter would be loaded in its place."""
    first = Run(tmp_path, r=2)
    first.finish(first.train())
    (first.last / ".leftover.part").mkdir()
    second = Run(tmp_path)
    second.finish(second.train())
    assert not any("adapter" in name or "part" in name for name in names(tmp_path))
    assert weights_of(load_trained(second.last, CPU)[0]) == weights_of(second.model)


def test_best_and_last_are_one_file_where_they_are_the_same_weights(tmp_path):
    run = Run(tmp_path)
    trainer = run.train(lr=0.003, eval_every=3)
    assert trainer.history.best.step == trainer.history.step, "for this test to tell anything"
    run.finish(trainer)
    best, last = (folder / "model.safetensors" for folder in (run.best, run.last))
    assert best.read_bytes() == last.read_bytes()
    assert weights_of(load_trained(run.last, CPU)[0]) == weights_of(run.model)


def test_best_weights_outlive_a_run_that_fails(tmp_path):
    run = Run(tmp_path)
    seen: dict[int, dict[str, bytes]] = {}

    def poison(point: ValPoint) -> None:
        seen[point.step] = weights_of(run.model)
        if point.step == 4:
            run.model.ln_f.weight.data[0] = float("inf")

    with pytest.raises(InstructError) as error:
        run.train(on_evaluation=poison)
    folder = run.store.folder / "best"
    assert "step 5" in str(error.value) and str(folder) in str(error.value)
    assert weights_of(load_trained(folder, CPU)[0]) in list(seen.values())[1:]


def test_best_weights_of_a_run_that_fails_do_not_mix_with_those_of_one_before(tmp_path):
    """Else the adapter that lies there would be loaded in their place."""
    for r, code in ((2, "1"), (0, "2")):
        run = Run(tmp_path, r=r, code=code)
        seen: list[dict[str, bytes]] = []

        def poison(point: ValPoint, run: Run = run, seen: list[dict[str, bytes]] = seen) -> None:
            seen.append(weights_of(run.model))
            if point.step == 4:
                run.model.ln_f.weight.data[0] = float("inf")

        with pytest.raises(InstructError, match="The best weights so far"):
            run.train(on_evaluation=poison, save_minutes=0.0)
    folder = run.store.folder / "best"
    assert not any("adapter" in name for name in names(folder))
    assert weights_of(load_trained(folder, CPU)[0]) in seen[1:]


def test_run_that_fails_at_once_promises_no_best_weights(tmp_path):
    run = Run(tmp_path)
    run.model.ln_f.weight.data[0] = float("inf")
    with pytest.raises(InstructError) as error:
        run.train()
    assert "best" not in str(error.value) and not run.store.folder.exists()


def test_metrics_by_hand(tmp_path):
    history = History(
        train=[
            TrainPoint(step=1, epoch=0.5, tokens=30, lr=0.001, loss=2.12345678, grad_norm=1.5),
            TrainPoint(step=2, epoch=1.0, tokens=55, lr=0.0001, loss=1 / 3, grad_norm=1e-7),
        ],
        val=[
            ValPoint(step=0, epoch=0.0, tokens=0, loss=0.5),
            ValPoint(step=1, epoch=0.5, tokens=30, loss=1.25),
            ValPoint(step=2, epoch=1.0, tokens=55, loss=1.75),
        ],
        stopped_early=True,
    )
    train_set = [example([1, 2, 3], [4, 5]), example([1], [2])]
    write_results(
        tmp_path / "train.json",
        tmp_path / "curves",
        history,
        {"train": (train_set, 1, 2), "val": (train_set[:1], 0, 0)},
    )
    assert json.loads((tmp_path / "train.json").read_text()) == {
        "steps": 2,
        "initial_val_loss": 0.5,
        "best_val_loss": 1.25,
        "details": [
            {
                "stopped_early": 1,
                "best_step": 1,
                "last_val_loss": 1.75,
                "first_train_loss": 2.1235,
                "last_train_loss": 0.3333,
                "train": {"records": 2, "truncated": 1, "dropped": 2, "tokens": 9, "response_tokens": 5},
                "val": {"records": 1, "truncated": 0, "dropped": 0, "tokens": 6, "response_tokens": 3},
            }
        ],
    }
    assert (tmp_path / "curves/train.csv").read_text() == (
        "step,epoch,tokens,lr,loss,grad_norm\n1,0.5,30,0.001,2.1235,1.5\n2,1.0,55,0.0001,0.3333,1e-07\n"
    )
    assert read_csv(tmp_path / "curves/val.csv")[1] == {"step": "1", "epoch": "0.5", "tokens": "30", "loss": "1.25"}


def test_two_runs_leave_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        run = Run(tmp_path / name)
        run.finish(run.train())
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_sample_answer_is_shown_at_each_evaluation(tmp_path, caplog):
    caplog.set_level("INFO")
    Run(tmp_path).train(epochs=1)
    shown = [record.getMessage() for record in caplog.records if "Say it." in record.getMessage()]
    assert len(shown) == 4
    assert shown[0].startswith("step 0: val loss 5.") and "Say it.  -> " in shown[0]


def test_sample_answer_of_a_prompt_that_fills_the_model_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    long = Example(id="v", instruction="x" * 100, input="", output="y")  # 100 bytes are more than 64 places
    Run(tmp_path, record=long).train(epochs=1)
    assert sum("val loss" in record.getMessage() for record in caplog.records) == 4


def test_sample_answer_stops_where_the_model_is_full(tmp_path, caplog):
    caplog.set_level("INFO")
    prompt = TEMPLATES["phi3"].render("")
    long = Example(id="v", instruction="x" * (64 - 2 - len(prompt)), input="", output="y")
    Run(tmp_path, record=long, sample_tokens=50).train(epochs=1)
    answers = [record.getMessage().split("-> ")[1] for record in caplog.records if "-> " in record.getMessage()]
    assert len(answers) == 4 and all(len(answer) <= 2 for answer in answers)


def test_full_disk_at_the_end_keeps_the_state_to_go_on_from(tmp_path):
    run = Run(tmp_path)
    history = run.train()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            run.finish(history)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again = Run(tmp_path)
    assert again.store.refusal() == "" and (again.store.folder / "state.safetensors").exists()
    again.finish(again.train())
    unbroken = Run(tmp_path / "unbroken")
    unbroken.finish(unbroken.train())
    for name in names(tmp_path / "unbroken"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name
    assert not run.store.folder.exists()


@pytest.mark.parametrize(
    "every", [pytest.param(8, id="every eighth"), pytest.param(1, id="every one", marks=pytest.mark.slow)]
)
def test_run_killed_before_any_change_to_the_file_system_ends_with_the_same_files(tmp_path, every):
    """Not at random: kill -9 before each single write, rename, link and removal, those at the end of a run included."""
    memory = Path("/dev/shm")  # without a disk to wait for, where there is one
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    try:
        path = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
        script = Path(__file__).with_name("every_crash_point.py")
        found = warm.python(script, folder, str(every), cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        assert found.returncode == 0, found.stderr
    finally:
        if folder != tmp_path:
            shutil.rmtree(folder)
    kinds = json.loads(found.stdout)
    assert kinds.keys() == {"full", "lora"}
    assert any("os.link" in point["change"] for points in kinds.values() for point in points)
    for points in kinds.values():
        assert len(points) > 80 / every
        assert [point for point in points if not point["same"]] == []
        first = next(i for i, point in enumerate(points) if point["state"])
        lost = [point for point in points[first:] if not point["state"] and not point["complete"]]
        assert lost == [], "the state may go only when nothing is left to do"
        changes = " ".join(point["change"] for point in points)
        assert "state.safetensors" in changes and "best-" in changes and "metrics" in changes


def test_weights_are_written_as_float32(tmp_path):
    run = Run(tmp_path)
    run.finish(run.train())
    assert {tensor.dtype for tensor in load_file(run.best / "model.safetensors").values()} == {torch.float32}
