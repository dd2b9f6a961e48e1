"""What a training loop is given: examples of any kind, how they become a batch, and the loss of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from instruct.model.decoder import Decoder
from instruct.training.buckets import Bucket
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


@dataclass(frozen=True, kw_only=True)
class Objective(Generic[E, B]):
    """What a model is trained for.

    `to_batch` makes a batch for the device in use. `to_row` makes it on the CPU; if it is packed, as the flat row that
    a GPU takes, which `fill_up` fills up to a bucket without a change to the loss. `row_size` gives the tokens of that
    row, and at most so many targets, more cheaply than making it. `module` makes what computes the loss of a batch.
    """

    to_batch: Callable[[Sequence[E]], B]
    to_row: Callable[[Sequence[E]], B]
    fill_up: Callable[[B, Bucket], B]
    row_size: Callable[[Sequence[E]], tuple[int, int]]
    module: Callable[[Decoder], LossModule] = LossModule
