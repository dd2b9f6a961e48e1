"""What a training loop is given: examples of any kind, how they become a batch, and the loss of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from instruct.model.decoder import Decoder
from instruct.training.collate import B
from instruct.training.loss import LossModule


class Item(Protocol):
    """An example as the loop sees it: one record, or a pair of answers."""

    @property
    def id(self) -> str:
        """What an error calls it."""

    @property
    def token_count(self) -> int:
        """How many tokens it has, end tokens included."""

    @property
    def response_tokens(self) -> int:
        """How many of them are answers or end one."""


E = TypeVar("E", bound=Item)
T_contra = TypeVar("T_contra", bound=Item, contravariant=True)


class Recorder(Protocol[T_contra]):
    """Takes optimizer steps that were recorded on a GPU; `flops` is what they needed."""

    flops: float

    def record(self, steps: Sequence[Sequence[T_contra]]) -> None:
        """Record them before the first."""

    def prepare(self, examples: Sequence[T_contra]) -> object:
        """Make a step's batches ahead of time."""

    def begin(self, examples: Sequence[T_contra], lr: float) -> None:
        """Start one step."""

    def read(self) -> tuple[float, float]:
        """The loss of the step begun last, and its gradient's norm."""


@dataclass(frozen=True, kw_only=True)
class Objective(Generic[E, B]):
    """What a model is trained for.

    `row_size` gives the tokens and targets of a batch more cheaply than making it. `module` makes what computes the
    loss of one, `recorder` what takes recorded steps on a GPU; without it, each operation is launched.
    """

    to_batch: Callable[[Sequence[E]], B]
    row_size: Callable[[Sequence[E]], tuple[int, int]]
    module: Callable[[Decoder], LossModule] = LossModule
    recorder: Callable[[Decoder, torch.optim.Optimizer, Sequence[Sequence[E]]], Recorder[E]] | None = None
