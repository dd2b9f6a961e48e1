"""The contestants of bench_prefer.py, each the worker process that its name asks for.

A contestant takes the task and gives a function that trains for some steps, always from the first pair on, and gives
the loss of the first. Imports are inside: no environment has all.
"""

from functools import partial
from pathlib import Path
from typing import Any

import harness
from train_contestants import Steps, Task, step_of, steps_of, timed, watched


def ours(task: Task, batching: str, recorded: bool = True) -> Steps:
    """The steps of src/instruct/training for the objective of src/instruct/preference."""
    from instruct.core.runtime import RuntimeParams, start_runtime
    from instruct.model.checkpoint import load_checkpoint
    from instruct.model.settings import LoraParams
    from instruct.preference.encode import EncodedPair
    from instruct.preference.loss import preferring
    from instruct.preference.reference import measure
    from instruct.preference.settings import PreferParams
    from instruct.training.encode import EncodedExample

    runtime = start_runtime(
        RuntimeParams(device=task["device"], precision=task["precision"], num_threads=task["threads"])
    )
    model, tokenizer = load_checkpoint(Path(task["model"]), runtime.device)
    params = PreferParams(
        methods=("dpo",), loss="sigmoid", beta=task["beta"], label_smoothing=0.0, sft_weight=0.0, epochs=1,
        micro_batch_size=task["batch"], grad_accum_steps=1, lr=task["lr"], lr_floor=1.0, warmup_steps=0,
        weight_decay=task["weight_decay"], max_grad_norm=1.0, batching=batching, max_length=1024, over_long="raise",
        eval_every=1000, eval_pairs=0, patience=0, save_minutes=0.0, recompute_activations=False, parallel="none",
        lora=LoraParams(r=0, alpha=32.0, dropout=0.0, target_modules=(), base="fp32"), seed=harness.SEED,
    )  # fmt: skip

    def side(record: dict[str, Any], name: str) -> EncodedExample:
        return EncodedExample(id=record["id"], ids=tuple(record[name]), prompt_length=record["prompt_length"])

    objective = preferring(params, runtime, tokenizer.eos_id)
    pairs = [
        EncodedPair(id=record["id"], chosen=side(record, "chosen_ids"), rejected=side(record, "rejected_ids"))
        for record in task["records"]
    ]
    known, size = measure(model, pairs, params.fit, runtime, tokenizer.eos_id), task["batch"]
    batches = [known[start : start + size] for start in range(0, len(known), size)]
    step, _ = step_of(model, batches, objective, params, runtime, task, recorded=recorded)

    def train(steps: int) -> dict[str, Any]:
        losses = [step(place) for place in range(steps)]
        return {"loss": losses[0]}

    return train


def trl(task: Task, precomputed: bool) -> Steps:
    """TRL's DPOTrainer with its defaults, but for what speaks for it: no checkpoints, logs or recomputation.

    Time is counted from its first batch to the end of its last step.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(task["threads"])
    config = DPOConfig(
        output_dir=task["work"] + "/trl", use_cpu=task["device"] == "cpu", bf16=task["precision"] == "bf16",
        gradient_checkpointing=False, per_device_train_batch_size=task["batch"], max_length=None, beta=task["beta"],
        precompute_ref_log_probs=precomputed, learning_rate=task["lr"], lr_scheduler_type="constant",
        weight_decay=task["weight_decay"], train_sampling_strategy="sequential",
        dataloader_pin_memory=task["device"] == "cuda", report_to="none", save_strategy="no", logging_strategy="no",
        disable_tqdm=True, seed=harness.SEED,
    )  # fmt: skip

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)

    trainer_of, clock = watched(DPOTrainer, task)
    rows = [{name: record[name] for name in ("prompt", "chosen", "rejected")} for record in task["records"]]
    trainer = trainer_of(
        model=load(),
        ref_model=None if precomputed else load(),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(task["model"]),
        callbacks=[clock],
    )
    for name in ("chosen", "rejected"):
        seen = [row["prompt_ids"] + row[f"{name}_ids"] for row in trainer.train_dataset]
        assert seen == [record[f"{name}_ids"] for record in task["records"]], "TRL was given other tokens"

    return steps_of(trainer, clock, task)


if __name__ == "__main__":
    contestants = {
        "ours": partial(ours, batching="packed"),
        "ours-launched": partial(ours, batching="packed", recorded=False),
        "ours-padded": partial(ours, batching="padded"),
        "trl": partial(trl, precomputed=False),
        "trl-precomputed": partial(trl, precomputed=True),
    }
    harness.serve({name: timed(contestant) for name, contestant in contestants.items()})
