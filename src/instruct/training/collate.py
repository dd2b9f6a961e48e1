"""Encoded examples to one padded batch.

B examples · T tokens of the longest, less one, since the last token is only ever a target
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instruct.errors import DataError
from instruct.training.encode import EncodedExample

IGNORE_INDEX = -100


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch: `labels` are `input_ids` shifted by one, -100 where nothing is predicted.

    All are (B, T). `weights` says how much each label counts in the loss, 0 where it is -100.
    """

    input_ids: Tensor
    labels: Tensor
    weights: Tensor
    tokens: int

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.input_ids, self.labels, self.weights))
        input_ids, labels, weights = moved
        return Batch(input_ids=input_ids, labels=labels, weights=weights, tokens=self.tokens)


def collate(examples: Sequence[EncodedExample], *, pad_id: int, prompt_loss_weight: float) -> Batch:
    """Pad on the right to the longest example of the batch and shift the targets by one.

    Padding is known by length, not by value, so each example keeps its one end token as a target even where
    padding uses the same id. Raises DataError for an example without a single supervised token.
    """
    width = max(len(example.ids) for example in examples) - 1
    input_ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORE_INDEX, dtype=torch.long)
    weights = torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        length = len(example.ids) - 1
        first = max(example.prompt_length - 1, 0)  # the prompt's last token predicts the response's first
        ids = torch.tensor(example.ids)
        input_ids[row, :length] = ids[:-1]
        weights[row, :first] = prompt_loss_weight
        weights[row, first:length] = 1.0
        labels[row, :length] = ids[1:]
        if not weights[row].any():
            raise DataError(f"record {example.id}: no token is left to learn from; give it an output")
    labels[weights == 0] = IGNORE_INDEX
    tokens = sum(len(example.ids) for example in examples)
    return Batch(input_ids=input_ids, labels=labels, weights=weights, tokens=tokens)
