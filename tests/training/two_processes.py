"""Small training runs shared by the processes that torchrun starts, for test_distributed.py to compare.

PYTHONPATH=src:tests torchrun --nproc-per-node 2 two_processes.py FOLDER

Leaves for each run its curve and final weights. One process group serves all, since starting processes takes seconds.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from small_training import (
    ALONE,
    CPU,
    byte_tokenizer,
    lora_params,
    make_trainer,
    open_store,
    random_examples,
    run_training,
    small_model,
)

from instruct.backbones.catalog import Backbone
from instruct.core.errors import ParamsError
from instruct.core.records import Example
from instruct.model.checkpoint import Model, random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.lora import add_lora
from instruct.text.prompts import TEMPLATES
from instruct.training.distributed import Parallel, gather_all, start_parallel
from instruct.training.history import ValPoint
from instruct.training.outputs import TrainOutputs, write_results
from instruct.training.sample import SamplePrompt

RUNS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "untied llama": {"family": "untied llama"},
    "adapters": {"lora": lora_params(r=2), "lr": 0.05},
    "llama, accumulated and padded": {
        "family": "llama", "micro_batch_size": 2, "grad_accum_steps": 2, "batching": "padded",
    },
    "recomputed and unmasked, the last step smaller than the world": {
        "count": 9, "prompt_loss_weight": 0.3, "recompute_activations": True,
    },
}  # fmt: skip
MODES = ("ddp", "fsdp")
CUT_OFF_AFTER = 4
DROPOUT = {"lora": lora_params(r=2, dropout=0.3), "lr": 0.05}


class CutOff(Exception):
    """Ends a run in the middle, on every rank at the same point."""


def start_run(settings: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    """A model before its run, and the arguments of `run_training` apart from the store."""
    changes = {"epochs": 2, "lr": 0.003, "eval_every": 2, "family": "gpt2", "count": 10, **settings}
    model = small_model(changes.pop("family"))
    if "lora" in changes:
        add_lora(model, changes["lora"], seed=0)
    train_set = random_examples(changes.pop("count"), seed=1)
    return model, {"train_set": train_set, "val_set": random_examples(5, seed=2), **changes}


def run_and_note(folder: Path, name: str, settings: Mapping[str, Any], parallel: Parallel, state: Path) -> None:
    model, arguments = start_run(settings)
    history = run_training(model, open_store(state, code="1"), parallel=parallel, **arguments)
    weights = gather_all(model.state_dict(), keep=parallel.is_main)
    if parallel.is_main:
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(asdict(history)), encoding="utf-8")


def begin_run(state: Path, parallel: Parallel, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
    """A run that is cut off two steps after its state was saved."""

    def watch(point: ValPoint) -> None:
        if point.step == CUT_OFF_AFTER + 2:
            raise CutOff

    model, arguments = start_run({"save_minutes": 0.0, **settings})
    trainer = make_trainer(model, open_store(state, code="1"), parallel=parallel, on_evaluation=watch, **arguments)
    take = trainer._after_step

    def take_and_save(interrupted: list[float]) -> None:
        take(interrupted)
        if trainer.history.step == CUT_OFF_AFTER:
            trainer.save()

    trainer._after_step = take_and_save  # type: ignore[method-assign]
    try:
        trainer.fit()
    except CutOff:
        return
    raise AssertionError("the run went to its end")


def whole_run(folder: Path, parallel: Parallel, *, adapters: bool) -> None:
    """A run with all its outputs."""
    config = GPT2Config(vocab_size=257, n_positions=64, n_embd=8, n_layer=2, n_head=2, eos_token_id=256)
    backbone = Backbone(name="small", family="gpt2", format="random", licence="-", about="-", files=())
    model = random_model(config, seed=1)
    if adapters:
        add_lora(model, lora_params(r=2), seed=0)
    store = open_store(folder / "models" / "resume", code="1")
    sample = SamplePrompt(Example(id="v", instruction="Say.", input="", output="x"), TEMPLATES["phi3"], 2)
    outputs = TrainOutputs(model, byte_tokenizer(), backbone, parallel, store, sample)
    train_set, val_set = random_examples(10, seed=1), random_examples(5, seed=2)
    trainer = make_trainer(model, store, train_set, val_set, outputs.show, parallel, eval_every=2)
    trainer.fit()
    fitted = {"train": (train_set, 0, 0), "val": (val_set, 0, 0)}
    write = partial(write_results, fitted=fitted)
    outputs.finish(folder / "models/sft", folder / "metrics/train.json", folder / "metrics/curves", trainer, write)
    outputs.end(trainer, folder / "metrics/train.json")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with start_parallel("ddp", examples_per_step=4, device=CPU) as launched:
        note_refusal(folder, launched)
        for mode in MODES:
            parallel = Parallel(mode, launched.rank, launched.world_size, launched.local_rank)
            for name, settings in RUNS.items():
                saving = {} if name == "full" else {"save_minutes": 0.0}  # a state after each step costs half the time
                state = folder / f"state of {mode} {name}"
                run_and_note(folder, f"{mode} {name}", {**saving, **settings}, parallel, state)
            begin_run(folder / f"state for one from {mode}", parallel)
            # Only the first machine has the state: the other's folder is empty.
            state = folder / (f"state for {mode}" if parallel.is_main else f"nothing for {mode}")
            run_and_note(folder, f"{mode} goes on", {}, parallel, state)
            run_and_note(folder, f"{mode} with dropout", DROPOUT, parallel, folder / f"state of {mode} with dropout")
            begin_run(folder / f"state of {mode} cut off", parallel, DROPOUT)
            run_and_note(folder, f"{mode} cut off", DROPOUT, parallel, folder / f"state of {mode} cut off")
            whole_run(folder / f"whole {mode}", parallel, adapters=False)
            if mode == "fsdp":  # each rank holds a part of the adapters
                whole_run(folder / f"whole {mode} with adapters", parallel, adapters=True)


def note_refusal(folder: Path, parallel: Parallel) -> None:
    """A run whose processes were given different data."""
    model, arguments = start_run({})
    try:
        run_training(model, open_store(folder / "never", data=str(parallel.rank)), parallel=parallel, **arguments)
    except ParamsError as error:
        (folder / f"refusal of {parallel.rank}").write_text(str(error), encoding="utf-8")


if __name__ == "__main__":
    assert ALONE.is_main
    main(Path(sys.argv[1]))
