"""The settings of training, apart from the code that needs torch, so that `instruct check` answers at once."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from instruct.core.params import require
from instruct.model.settings import LoraParams

Batching = Literal["packed", "padded"]


class StepSize(NamedTuple):
    """What one optimizer step holds: `micro_batches` of so many `examples`, or of `tokens` in all if above 0."""

    examples: int
    micro_batches: int
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class LoopParams:
    """What the training loop is set by, whatever it trains for; `section` is where in params.yaml.

    The learning rate rises in `warmup_steps` to `lr` and falls along a cosine to `lr_floor` times that. Steps are
    optimizer steps of `micro_batch_size` x `grad_accum_steps` examples.
    `packed` batches have no padding and compute what prompts have in common once; `padded` ones have the same result.
    Examples longer than `max_length` tokens, end token included, are refused, cut or dropped (`over_long`); a chat is
    cut by whole turns, the oldest first, before its last response is. The loss on val is taken every `eval_every` steps
    and at the end; `patience` evaluations without a better one stop training, 0 never. The state to go on from is saved
    every `save_minutes`, 0 only when stopped by Ctrl-C.
    """

    section: ClassVar[str]

    epochs: int
    micro_batch_size: int
    grad_accum_steps: int
    lr: float
    lr_floor: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    batching: Batching
    max_length: int
    over_long: Literal["raise", "truncate", "drop"]
    eval_every: int
    patience: int
    save_minutes: float
    recompute_activations: bool
    parallel: Literal["none", "ddp", "fsdp"]
    lora: LoraParams
    seed: int

    def __post_init__(self) -> None:
        for name in ("epochs", "micro_batch_size", "grad_accum_steps", "eval_every"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "patience", "save_minutes", "seed"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        require("lr", self.lr, 0 < self.lr < 1, "between 0 and 1")
        require("lr_floor", self.lr_floor, 0 <= self.lr_floor <= 1, "from 0 to 1, a share of lr")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "from 0 to below 1")
        require("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0, "above 0")
        require("lora.base", self.lora.base, self.lora.base == "fp32" or self.parallel != "fsdp", "fp32 under fsdp")
        require("max_length", self.max_length, self.max_length >= 2, "at least 2")
        # The order of all records in all epochs is drawn before the first step, so 10^12 epochs would fill the memory.
        require("epochs", self.epochs, self.epochs <= 10_000, "at most 10000")

    @property
    def examples_per_step(self) -> int:
        """The global batch size, in examples; not in use where `step_size` counts tokens."""
        return self.micro_batch_size * self.grad_accum_steps

    @property
    def step_size(self) -> StepSize:
        """What one optimizer step holds."""
        return StepSize(self.micro_batch_size, self.grad_accum_steps)

    @property
    def evaluated(self) -> int:
        """How many examples of val an evaluation takes; 0: all."""
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainParams(LoopParams):
    """The section `train` of params.yaml, beside what every training loop is set by.

    With `tokens_per_step` above 0 a step is as many examples as have so many tokens together, in `grad_accum_steps`
    micro-batches. A target in the prompt counts `prompt_loss_weight` times as much as one in the response: 0 is
    response only, 1 is the book's unmasked loss. Of a chat every answer is a response, or the last alone (`turns`).
    Evaluations use `eval_records` of val, always the same, or all (0).
    """

    section: ClassVar[str] = "train"

    tokens_per_step: int
    prompt_loss_weight: float
    turns: Literal["all", "last"]
    eval_records: int
    sample_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens_per_step", "eval_records", "sample_tokens"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        require("prompt_loss_weight", self.prompt_loss_weight, 0 <= self.prompt_loss_weight <= 1, "from 0 to 1")

    @property
    def step_size(self) -> StepSize:
        """What one optimizer step holds."""
        return StepSize(self.micro_batch_size, self.grad_accum_steps, self.tokens_per_step)

    @property
    def evaluated(self) -> int:
        """How many examples of val an evaluation takes; 0: all."""
        return self.eval_records
