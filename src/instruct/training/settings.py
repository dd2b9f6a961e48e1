"""The settings of training, apart from the code that needs torch, so that `instruct check` answers at once."""

from dataclasses import dataclass
from typing import Literal

from instruct.core.params import require
from instruct.model.settings import LoraParams

Batching = Literal["packed", "padded"]


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """The section `train` of params.yaml.

    The learning rate rises in `warmup_steps` to `lr` and falls along a cosine to `lr_floor` times that. Steps are
    optimizer steps of `micro_batch_size` x `grad_accum_steps` examples, or, with `tokens_per_step` above 0, of as
    many as have so many tokens together, in `grad_accum_steps` micro-batches. A target in the prompt counts
    `prompt_loss_weight` times as much as one in the response: 0 is response only, 1 is the book's unmasked loss. Of a
    chat every answer is a response, or the last alone (`turns`).
    `packed` batches have no padding and compute the prompts' common beginning once; `padded` ones are the book's, with
    the same result.
    Examples longer than `max_length` tokens, end token included, are refused, cut or dropped (`over_long`); a chat is
    cut by whole turns, the oldest first, before its last response is. The loss
    on val is taken every `eval_every` steps and at the end, on `eval_records` of it, always the same, or on all (0);
    `patience` evaluations without a better one stop training, 0 never. The state to go on from is saved every
    `save_minutes`, 0 only when stopped by Ctrl-C.
    """

    epochs: int
    micro_batch_size: int
    grad_accum_steps: int
    tokens_per_step: int
    lr: float
    lr_floor: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    prompt_loss_weight: float
    turns: Literal["all", "last"]
    batching: Batching
    max_length: int
    over_long: Literal["raise", "truncate", "drop"]
    eval_every: int
    eval_records: int
    patience: int
    sample_tokens: int
    save_minutes: float
    recompute_activations: bool
    parallel: Literal["none", "ddp", "fsdp"]
    lora: LoraParams
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "micro_batch_size", "grad_accum_steps", "eval_every"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in (
            "tokens_per_step",
            "eval_records",
            "warmup_steps",
            "patience",
            "sample_tokens",
            "save_minutes",
            "seed",
        ):
            require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        require("lr", self.lr, 0 < self.lr < 1, "between 0 and 1")
        require("lr_floor", self.lr_floor, 0 <= self.lr_floor <= 1, "from 0 to 1, a share of lr")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "from 0 to below 1")
        require("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0, "above 0")
        require("prompt_loss_weight", self.prompt_loss_weight, 0 <= self.prompt_loss_weight <= 1, "from 0 to 1")
        require("lora.base", self.lora.base, self.lora.base == "fp32" or self.parallel != "fsdp", "fp32 under fsdp")
        require("max_length", self.max_length, self.max_length >= 2, "at least 2")
        # The order of all records in all epochs is drawn before the first step, so 10^12 epochs would fill the memory.
        require("epochs", self.epochs, self.epochs <= 10_000, "at most 10000")

    @property
    def examples_per_step(self) -> int:
        """The global batch size, in examples; not in use where `tokens_per_step` is."""
        return self.micro_batch_size * self.grad_accum_steps
