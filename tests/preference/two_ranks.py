"""Small runs of preference tuning shared by the processes that torchrun starts, for test_distributed.py to compare.

PYTHONPATH=src:tests torchrun --nproc-per-node 2 two_ranks.py FOLDER
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_preference import make_preferrer, prefer_params, random_pairs
from small_training import ALONE, CPU, END, FLOAT32, lora_params, open_store, small_model

from instruct.model.lora import add_lora
from instruct.preference.collate import PairBatch
from instruct.preference.encode import EncodedPair
from instruct.preference.reference import measure
from instruct.training.distributed import Parallel, gather_all, start_parallel
from instruct.training.trainer import Trainer

RUNS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "a last step smaller than the world": {"count": 9, "family": "llama"},
    "adapters": {"lora": lora_params(r=2), "lr": 0.05},
    "accumulated and padded": {"micro_batch_size": 2, "grad_accum_steps": 2, "batching": "padded", "sft_weight": 0.5},
}
MODES = ("ddp", "fsdp")


def start_run(settings: Mapping[str, Any], state: Path, parallel: Parallel) -> Trainer[EncodedPair, PairBatch]:
    changes = {"epochs": 2, "lr": 0.003, "eval_every": 2, "family": "gpt2", "count": 10, **settings}
    model = small_model(changes.pop("family"))
    pairs = random_pairs(changes.pop("count"), seed=1), random_pairs(5, seed=2)
    train_set, val_set = (measure(model, ones, prefer_params().fit, FLOAT32, END) for ones in pairs)
    if "lora" in changes:
        add_lora(model, changes["lora"], seed=0)
    return make_preferrer(model, open_store(state, code="1"), train_set, val_set, parallel, **changes)


def begin_run(state: Path) -> None:
    """A run of one process that ends two steps after its state was saved."""
    trainer = start_run({"save_minutes": 0.0}, state, ALONE)
    trainer.evaluate()
    for _ in range(2):
        trainer.step()
    trainer.evaluate()
    trainer.save()


def run_and_note(folder: Path, name: str, settings: Mapping[str, Any], parallel: Parallel, state: Path) -> None:
    trainer = start_run(settings, state, parallel)
    history = trainer.fit()
    weights = gather_all(trainer._model.state_dict(), keep=parallel.is_main)
    if parallel.is_main:
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(asdict(history)), encoding="utf-8")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with start_parallel("ddp", examples_per_step=4, device=CPU, section="prefer") as launched:
        for mode in MODES:
            parallel = Parallel(mode, launched.rank, launched.world_size, launched.local_rank)
            for name, settings in RUNS.items():
                run_and_note(folder, f"{mode} {name}", settings, parallel, folder / f"state of {mode} {name}")
            run_and_note(folder, f"{mode} goes on", {}, parallel, folder / f"state for {mode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
