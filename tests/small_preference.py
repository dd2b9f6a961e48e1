"""Hand-made pairs and settings for the tests of preference tuning."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from small_training import ALONE, END, FLOAT32, example, lora_params

from instruct.core.runtime import Runtime
from instruct.model.checkpoint import Model
from instruct.preference.collate import PairBatch, collate_pairs
from instruct.preference.encode import EncodedPair
from instruct.preference.loss import log_probs, preferring
from instruct.preference.settings import PreferParams
from instruct.training.distributed import Parallel
from instruct.training.resume import ResumeStore
from instruct.training.throughput import Stopwatch
from instruct.training.trainer import Trainer


def prefer_params(**changes: Any) -> PreferParams:
    values: dict[str, Any] = {
        "methods": ("dpo",), "loss": "sigmoid", "beta": 0.3, "label_smoothing": 0.0, "sft_weight": 0.0, "epochs": 1,
        "micro_batch_size": 4, "grad_accum_steps": 1, "lr": 0.01, "lr_floor": 0.1, "warmup_steps": 1,
        "weight_decay": 0.1, "max_grad_norm": 1.0, "batching": "packed", "max_length": 64, "over_long": "raise",
        "eval_every": 3, "eval_pairs": 0, "patience": 0, "save_minutes": 1e-9, "recompute_activations": False,
        "parallel": "none", "lora": lora_params(r=0), "seed": 123,
    }  # fmt: skip
    return PreferParams(**{**values, **changes})


def random_pairs(count: int, *, longest: int = 15, preamble: int = 3, seed: int = 0) -> list[EncodedPair]:
    """Prompts that begin alike, answers of very different lengths; those of every third pair begin alike too."""
    rng = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=rng))
        return torch.randint(0, END, (length,), generator=rng).tolist()

    pairs = []
    for i in range(count):
        prompt = [*[5, 6, 7, 8, 9, 10][:preamble], *draw(1, 8)]
        common = draw(1, 4) if i % 3 == 0 else []
        chosen, rejected = [*common, *draw(1, longest)], [*common, *draw(1, longest)]
        pairs.append(EncodedPair(id=f"p{i}", chosen=example(prompt, chosen), rejected=example(prompt, rejected)))
    return pairs


def batch_of(pairs: Sequence[EncodedPair], batching: Any = "packed", flat: bool | None = None) -> PairBatch:
    return collate_pairs(pairs, batching=batching, pad_id=END, device=torch.device("cpu"), flat=flat)


def with_reference(pairs: Sequence[EncodedPair], model: Model) -> list[EncodedPair]:
    """The pairs with the log-probs of a model, computed in one batch."""
    with torch.no_grad():
        chosen, rejected = log_probs(model, batch_of(pairs)).chunk(2)
    return [replace(pair, reference=(float(a), float(b))) for pair, a, b in zip(pairs, chosen, rejected, strict=True)]


def make_preferrer(
    model: Model,
    store: ResumeStore,
    train_set: Sequence[EncodedPair],
    val_set: Sequence[EncodedPair],
    parallel: Parallel = ALONE,
    runtime: Runtime = FLOAT32,
    **changes: Any,
) -> Trainer[EncodedPair, PairBatch]:
    params = prefer_params(**changes)
    return Trainer(
        model, train_set, val_set, objective=preferring(params, runtime, END), params=params, runtime=runtime,
        parallel=parallel, store=store, stopwatch=Stopwatch(),
    )  # fmt: skip
