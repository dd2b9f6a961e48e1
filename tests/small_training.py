"""Small models, hand-made examples and settings for the tests of training."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from instruct.core.fingerprint import Fingerprint
from instruct.core.runtime import Runtime
from instruct.model.checkpoint import Model, random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.model.settings import LoraParams
from instruct.text.tokenizer import END_OF_TEXT, Tokenizer, make_tokenizer
from instruct.training.collate import Batch, collate
from instruct.training.distributed import Parallel
from instruct.training.encode import EncodedExample
from instruct.training.history import History, ValPoint
from instruct.training.loss import loss_sum
from instruct.training.resume import ResumeStore
from instruct.training.settings import Batching, TrainParams
from instruct.training.supervised import supervised
from instruct.training.throughput import Stopwatch
from instruct.training.trainer import Trainer

CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = Runtime(CPU, torch.float32), Runtime(CPU, torch.bfloat16)
ALONE = Parallel("none", 0, 1, 0)
VOCABULARY, END = 97, 96
FAMILIES = {
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=24, n_layer=2, n_head=4, eos_token_id=END),
    "llama": LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=END,
    ),
}  # fmt: skip
UNTIED = replace(FAMILIES["llama"], tied=False)


def small_model(family: str) -> Model:
    return scrambled(random_model(UNTIED if family == "untied llama" else FAMILIES[family], seed=1), 10)


def scrambled(model: Model, times: float) -> Model:
    """Larger weights than usual, so that attention is far from uniform, and no norm or bias at rest."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
            else:
                weight *= times
    return model.eval()


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the end token 256."""
    tokens = [*(bytes([value]) for value in range(256)), END_OF_TEXT.encode()]
    return make_tokenizer(tokens, {END_OF_TEXT: 256}, "gpt2", eos_id=256)


def example(prompt: Sequence[int], response: Sequence[int], id_: str = "") -> EncodedExample:
    ids = (*prompt, *response, END)
    return EncodedExample(id=id_ or "-".join(map(str, ids)), ids=ids, prompt_length=len(prompt))


def random_examples(count: int, *, longest: int = 20, preamble: int = 3, seed: int = 0) -> list[EncodedExample]:
    """Prompts that begin with the same `preamble` tokens, and responses of very different lengths."""
    rng = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=rng))
        return torch.randint(0, END, (length,), generator=rng).tolist()

    start = [5, 6, 7, 8, 9, 10, 11][:preamble]
    return [example([*start, *draw(1, 8)], draw(1, longest), f"r{i}") for i in range(count)]


def train_params(**changes: Any) -> TrainParams:
    values: dict[str, Any] = {
        "epochs": 1,
        "micro_batch_size": 4,
        "grad_accum_steps": 1,
        "tokens_per_step": 0,
        "lr": 0.01,
        "lr_floor": 0.1,
        "warmup_steps": 1,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "prompt_loss_weight": 0.0,
        "turns": "all",
        "batching": "packed",
        "max_length": 64,
        "over_long": "raise",
        "eval_every": 3,
        "eval_records": 0,
        "patience": 0,
        "sample_tokens": 0,
        "save_minutes": 1e-9,
        "recompute_activations": False,
        "parallel": "none",
        "lora": lora_params(r=0),
        "seed": 123,
    }
    return TrainParams(**{**values, **changes})


def lora_params(**changes: Any) -> LoraParams:
    return LoraParams(**{"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": (), "base": "fp32", **changes})


def make_batch(
    examples: Sequence[EncodedExample],
    batching: Batching,
    weight: float = 0.0,
    pad_id: int = END,
    device: torch.device = CPU,
    flat: bool | None = None,
) -> Batch:
    return collate(examples, batching=batching, pad_id=pad_id, prompt_loss_weight=weight, device=device, flat=flat)


def loss_and_gradients(
    model: Model, batch: Batch, runtime: Runtime = FLOAT32
) -> tuple[float, dict[str, torch.Tensor | None]]:
    """The loss per weight of the batch, and every parameter's gradient by name."""
    model.zero_grad(set_to_none=True)
    with runtime.autocast():
        loss = loss_sum(model, batch) / batch.weights.sum()
    loss.backward()
    return float(loss.detach()), {
        name: None if weight.grad is None else weight.grad.clone() for name, weight in model.named_parameters()
    }


def drawn_adapters(model: nn.Module) -> torch.Tensor:
    """The adapters' weights that begin at random, in one row; the others begin at 0."""
    return torch.cat([weight.flatten() for name, weight in model.named_parameters() if name.endswith("lora_A")])


def weights_of(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def open_store(folder: Path, **parts: str) -> ResumeStore:
    return PatientStore(folder, Fingerprint(parts=parts))


class PatientStore(ResumeStore):
    """Has written a state when `save` returns, so that a test knows what is there."""

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        self.wait()


def make_trainer(
    model: Model,
    store: ResumeStore,
    train_set: Sequence[EncodedExample],
    val_set: Sequence[EncodedExample],
    on_evaluation: Callable[[ValPoint], None] = lambda point: None,
    parallel: Parallel = ALONE,
    runtime: Runtime = FLOAT32,
    **changes: Any,
) -> Trainer[EncodedExample, Batch]:
    params = train_params(**changes)
    return Trainer(
        model, train_set, val_set, objective=supervised(params, runtime, END), params=params, runtime=runtime,
        parallel=parallel, store=store, stopwatch=Stopwatch(), on_evaluation=on_evaluation,
    )  # fmt: skip


def run_training(*args: Any, **kwargs: Any) -> History:
    return make_trainer(*args, **kwargs).fit()
