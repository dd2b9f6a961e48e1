"""The contestants of bench_train.py, each the worker process that its name asks for.

A contestant takes the task and gives a function that trains for some steps, always from the first record on, and
gives the loss of the first; it may say itself how many seconds count. Imports are inside: no environment has all.
"""

import importlib
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness

Task = dict[str, Any]
Steps = Callable[[int], dict[str, Any]]
Run = Callable[..., dict[str, Any]]


def timed(contestant: Callable[[Task], Steps]) -> Callable[[Task], Run]:
    """A contestant as the harness runs it."""

    def set_up(task: Task) -> Run:
        train = contestant(task)

        def run(*, steps: int, profiled: bool = False) -> dict[str, Any]:
            if profiled:
                return {"busy": harness.busy_seconds(task["device"], lambda: train(steps))}
            started = time.perf_counter()
            result = train(steps)
            harness.finish(task["device"])
            return {"seconds": time.perf_counter() - started, **result}

        return run

    return set_up


def batches_of(task: Task) -> list[list[dict[str, Any]]]:
    records, size = task["records"], task["batch"]
    return [records[start : start + size] for start in range(0, len(records), size)]


def ours(task: Task, batching: str, precision: str = "") -> Steps:
    """The steps of src/instruct/training, with the pipeline's own settings where they do not matter here."""
    from dataclasses import replace

    from instruct.core.params import load_params
    from instruct.core.runtime import RuntimeParams, start_runtime
    from instruct.model.checkpoint import load_checkpoint
    from instruct.model.lora import add_lora
    from instruct.training.encode import EncodedExample
    from instruct.training.settings import TrainParams
    from instruct.training.supervised import supervised
    from instruct.training.throughput import matmul_peak

    runtime = start_runtime(
        RuntimeParams(device=task["device"], precision=precision or task["precision"], num_threads=task["threads"])
    )
    model, tokenizer = load_checkpoint(Path(task["model"]), runtime.device)
    loaded = load_params("train", TrainParams)
    params = replace(
        loaded,
        batching=batching, micro_batch_size=task["batch"], grad_accum_steps=1, prompt_loss_weight=0.0,
        weight_decay=task["weight_decay"], recompute_activations=False, parallel="none",
        lora=replace(loaded.lora, r=task["lora"]),
    )  # fmt: skip
    if task["lora"]:
        add_lora(model, params.lora, params.seed)
    batches = [
        [EncodedExample(id=r["id"], ids=tuple(r["ids"]), prompt_length=r["prompt_length"]) for r in batch]
        for batch in batches_of(task)
    ]
    step, module = step_of(model, batches, supervised(params, runtime, tokenizer.eos_id), params, runtime, task)

    def train(steps: int) -> dict[str, Any]:
        peak, before = matmul_peak(runtime), module.needed_flops
        harness.finish(task["device"])
        started = time.perf_counter()
        losses = [step(place) for place in range(steps)]
        harness.finish(task["device"])
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "loss": losses[0], "matmul_peak": peak, "flops": module.needed_flops - before}

    return train


def step_of(
    model: Any, batches: list[Any], objective: Any, params: Any, runtime: Any, task: Task, *, recorded: bool = True
) -> tuple[Callable[[int], float], Any]:
    """What takes the step of a place and gives its loss, as the Trainer does it, and the objective's module.

    On a GPU steps are recorded once and replayed, unless `recorded` is false.
    """
    from instruct.training.recorded import same_bytes

    module, kind = objective.module(model), recorded_step if recorded and task["device"] == "cuda" else launched_step
    with same_bytes(runtime.device):
        take = kind(module, batches, objective, params, runtime, task["lr"])

    def step(place: int) -> float:
        with same_bytes(runtime.device):
            loss = take(place)
        module.take_measures(list)
        return loss

    return step, module


def launched_step(
    module: Any, batches: list[Any], objective: Any, params: Any, runtime: Any, lr: float
) -> Callable[[int], float]:
    """Operation by operation, as on a CPU."""
    from instruct.training.distributed import Parallel
    from instruct.training.loop import make_optimizer, take_step

    optimizer, alone = make_optimizer(module.model, params), Parallel("none", 0, 1, 0)

    def take(place: int) -> float:
        return take_step(
            module, optimizer, batches[place], objective.to_batch, lr=lr, params=params, runtime=runtime, parallel=alone
        )[0]

    return take


def recorded_step(
    module: Any, batches: list[Any], objective: Any, params: Any, runtime: Any, lr: float
) -> Callable[[int], float]:
    """Recorded once and replayed."""
    from instruct.training.loop import make_optimizer
    from instruct.training.recorded import RecordedStep

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    optimizer = make_optimizer(module.model, params, recorded=True)
    recorded = RecordedStep(module, optimizer, batches, objective=objective, params=params, runtime=runtime)
    recorded.record(batches)

    def take(place: int) -> float:
        recorded.begin(batches[place], lr)
        if place + 1 < len(batches):
            recorded.prepare(batches[place + 1])
        return recorded.read()[0]

    return take


def transformers_loop(task: Task) -> Steps:
    """What one writes with transformers alone: right padding, labels of -100 on prompts and padding, AdamW."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task["threads"])
    device = task["device"]
    low = torch.autocast(device, torch.bfloat16, enabled=task["precision"] == "bf16")
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=task["lr"], weight_decay=task["weight_decay"], fused=device == "cuda"
    )
    pad = model.config.eos_token_id

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(record["ids"]) for record in batch)
        ids = [record["ids"] + [pad] * (longest - len(record["ids"])) for record in batch]
        seen = [[1] * len(record["ids"]) + [0] * (longest - len(record["ids"])) for record in batch]
        labels = [
            [-100] * (prompt := record["prompt_length"]) + record["ids"][prompt:]
            + [-100] * (longest - len(record["ids"]))
            for record in batch
        ]  # fmt: skip
        columns = {"input_ids": ids, "attention_mask": seen, "labels": labels}
        return {name: torch.tensor(rows).to(device) for name, rows in columns.items()}

    def train(steps: int) -> dict[str, Any]:
        losses = []
        for batch in batches_of(task)[:steps]:
            with low:
                loss = model(**collate(batch), use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return {"loss": losses[0]}

    return train


def trl(task: Task, packing: bool) -> Steps:
    """TRL's SFTTrainer with its defaults, but for what speaks for it: no checkpoints, logs or recomputation.

    Time is counted from its first batch to the end of its last step. Packed, a row has the tokens of about one
    batch, and a run of all steps is all rows.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(task["threads"])
    records, all_steps = task["records"], len(batches_of(task))
    tokens = sum(len(record["ids"]) for record in records)
    longest = max(len(record["ids"]) for record in records)
    config = SFTConfig(
        output_dir=task["work"] + "/trl", use_cpu=task["device"] == "cpu", bf16=task["precision"] == "bf16",
        gradient_checkpointing=False,
        per_device_train_batch_size=1 if packing else task["batch"], packing=packing,
        max_length=max(-(-tokens // all_steps), longest) if packing else None, completion_only_loss=True,
        learning_rate=task["lr"], lr_scheduler_type="constant", weight_decay=task["weight_decay"],
        train_sampling_strategy="sequential", dataloader_pin_memory=task["device"] == "cuda",
        remove_unused_columns=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
        seed=harness.SEED,
    )  # fmt: skip

    trainer_of, clock = watched(SFTTrainer, task)
    trainer = trainer_of(
        model=AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": r["prompt"], "completion": r["output"]} for r in records]),
        processing_class=AutoTokenizer.from_pretrained(task["model"]),
        callbacks=[clock],
        peft_config=lora_config(task["lora"]) if task["lora"] else None,
    )
    if not packing:
        seen = [list(ids) for ids in trainer.train_dataset["input_ids"]]
        assert seen == [record["ids"] for record in records], "TRL was given other tokens"

    return steps_of(trainer, clock, task)


def watched(base: Any, task: Task) -> tuple[Any, Any]:
    """A kind of transformers' Trainer that keeps the first loss of a run, and a callback with its clock."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        started = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == state.max_steps:
                harness.finish(task["device"])
            self.ended = time.perf_counter()

    class Watched(base):  # type: ignore[misc]
        first_loss: float | None = None

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            result = super().compute_loss(*args, **kwargs)
            if self.first_loss is None:
                loss = result[0] if isinstance(result, tuple) else result
                self.first_loss = float(loss.detach())
            return result

    return Watched, Clock()


def steps_of(trainer: Any, clock: Any, task: Task) -> Steps:
    """The steps of a trainer and its clock that `watched` made."""

    def train(steps: int) -> dict[str, Any]:
        trainer.first_loss = None
        trainer.args.max_steps = -1 if steps == len(batches_of(task)) else steps
        trainer.args.num_train_epochs = 1
        trainer.train()
        return {"seconds": clock.ended - clock.started, "loss": trainer.first_loss}

    return train


def lora_config(rank: int) -> Any:
    """PEFT's adapters of this rank in all linear layers, as ours are."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def chapter(task: Task) -> Steps:
    """The lines of the chapter's `train_model_simple` that train, on its own data set, collation and model.

    Its evaluations and samples are left out, which speaks for it.
    """
    import torch
    from torch.utils.data import DataLoader

    from instruct.text.tokenizer import gpt2_tokenizer

    torch.set_num_threads(task["threads"])
    book, config = harness.import_chapter(task)
    torch.manual_seed(harness.SEED)
    device = task["device"]
    low = torch.autocast(device, torch.bfloat16, enabled=task["precision"] == "bf16")
    model = book.GPTModel(config).to(device)
    data = book.InstructionDataset(task["records"], gpt2_tokenizer().encoding)
    collate = partial(book.custom_collate_fn, device=device, allowed_max_length=1024)
    loader = DataLoader(data, batch_size=task["batch"], collate_fn=collate, shuffle=False, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task["lr"], weight_decay=task["weight_decay"])
    loss_of = importlib.import_module("previous_chapters").calc_loss_batch

    def train(steps: int) -> dict[str, Any]:
        model.train()
        losses = []
        for _, (inputs, targets) in zip(range(steps), loader, strict=False):
            optimizer.zero_grad()
            with low:
                loss = loss_of(inputs, targets, model, device)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return {"loss": float(losses[0])}

    return train


if __name__ == "__main__":
    contestants: dict[str, Callable[[Task], Steps]] = {
        "ours": partial(ours, batching="packed"),
        "ours-fp32": partial(ours, batching="packed", precision="fp32"),
        "ours-padded": partial(ours, batching="padded"),
        "transformers": transformers_loop,
        "trl": partial(trl, packing=False),
        "trl-packed": partial(trl, packing=True),
        "chapter": chapter,
    }
    harness.serve({name: timed(contestant) for name, contestant in contestants.items()})
