"""Encoded examples to one batch, packed without padding or padded as in the book.

Both give the same loss and gradients; packing computes the prompt preamble that all examples share only once.

B rows · T places of a row · N targets
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from instruct.core.errors import DataError
from instruct.model.decoder import Attend, attend_causally
from instruct.training.encode import EncodedExample
from instruct.training.packing import PackedAttend, TreeAttend, shared_prefix, tree_ends
from instruct.training.settings import Batching

IGNORE_INDEX = -100


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch: what goes in, and each target with the place whose state predicts it.

    `input_ids` and `positions` are (B, T); `places` (index into B x T), `labels` and `weights` are (N,). A place
    may predict several targets, and a weight says how much its target counts. `tokens` are the real tokens of the
    examples, end tokens included, whether or not they were computed more than once.
    """

    tensors: ClassVar[tuple[str, ...]] = ("input_ids", "positions", "places", "labels", "weights")

    input_ids: Tensor
    positions: Tensor
    attend: Attend
    places: Tensor
    labels: Tensor
    weights: Tensor
    tokens: int

    def to(self, device: torch.device) -> Self:
        """The batch on another device; gathered rows must have been made for it already."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in self.tensors}
        attend = TreeAttend(self.attend.ends.to(device)) if isinstance(self.attend, TreeAttend) else self.attend
        return replace(self, attend=attend, **moved)


B = TypeVar("B", bound=Batch)


def collate(
    examples: Sequence[EncodedExample],
    *,
    batching: Batching,
    pad_id: int,
    prompt_loss_weight: float,
    device: torch.device,
    flat: bool | None = None,
) -> Batch:
    """Make a batch; raises DataError for an example without a single supervised token.

    `flat` says whether packed attention runs over the flat row instead of gathered ones; None: where there is CUDA.
    """
    for example in examples:
        if not any(target_weights(example, prompt_loss_weight)):
            raise DataError(f"record {example.id}: no token is left to learn from; give it an output")
    if batching == "padded":
        return pad(examples, pad_id=pad_id, prompt_loss_weight=prompt_loss_weight, device=device)
    flat = device.type == "cuda" if flat is None else flat
    return pack(examples, prompt_loss_weight=prompt_loss_weight, device=device, flat=flat)


def target_weights(example: EncodedExample, prompt_loss_weight: float) -> list[float]:
    """How much each target counts; target i is token i + 1, and a prompt's last token predicts the response."""
    in_prompt = max(example.prompt_length - 1, 0)
    weights = [prompt_loss_weight] * in_prompt + [1.0] * (len(example.ids) - 1 - in_prompt)
    for begin, end in example.later_prompts:
        weights[begin - 1 : end - 1] = [prompt_loss_weight] * (end - begin)
    return weights


def pad(examples: Sequence[EncodedExample], *, pad_id: int, prompt_loss_weight: float, device: torch.device) -> Batch:
    """One row an example, padded on the right to the longest."""
    input_ids, labels, weights = pad_rows(examples, pad_id=pad_id, prompt_loss_weight=prompt_loss_weight)
    places = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    return Batch(
        input_ids=input_ids,
        positions=torch.arange(input_ids.shape[1]).expand_as(input_ids),
        attend=attend_causally,
        places=places,
        labels=labels.flatten()[places],
        weights=weights.flatten()[places],
        tokens=sum(len(example.ids) for example in examples),
    ).to(device)


def pad_rows(
    examples: Sequence[EncodedExample], *, pad_id: int, prompt_loss_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Input ids, labels (shifted by one, -100 where nothing is predicted) and weights, each (B, T).

    Padding is known by length, not by value, so each example keeps its one end token as a target even where
    padding uses the same id.
    """
    width = max(len(example.ids) for example in examples) - 1
    input_ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORE_INDEX, dtype=torch.long)
    weights = torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        length = len(example.ids) - 1
        ids = torch.tensor(example.ids)
        input_ids[row, :length] = ids[:-1]
        labels[row, :length] = ids[1:]
        weights[row, :length] = torch.tensor(target_weights(example, prompt_loss_weight))
    labels[weights == 0] = IGNORE_INDEX
    return input_ids, labels, weights


def pack(
    examples: Sequence[EncodedExample],
    *,
    prompt_loss_weight: float,
    device: torch.device,
    flat: bool,
) -> Batch:
    """One flat row: the prefix that all examples share, then each example's own tokens.

    A target inside the prefix is the same for all examples and is computed once with their summed weight; the
    prefix's last token predicts the first own token of each.
    """
    inputs = [example.ids[:-1] for example in examples]
    prefix = shared_prefix(inputs)
    row = list(inputs[0][:prefix])
    positions = list(range(prefix))
    targets: dict[tuple[int, int], float] = {}  # (place, label) -> weight
    for example, ids in zip(examples, inputs, strict=True):
        start = len(row) - prefix  # own token i, counted from 0 at the record's begin, is at start + i
        row += ids[prefix:]
        positions += range(prefix, len(ids))
        for i, weight in enumerate(target_weights(example, prompt_loss_weight)):
            if weight:
                key = (i if i < prefix else start + i, example.ids[i + 1])
                targets[key] = targets.get(key, 0.0) + weight
    own = [len(ids) - prefix for ids in inputs]
    return Batch(
        input_ids=torch.tensor([row]),
        positions=torch.tensor([positions]),
        attend=TreeAttend(torch.tensor(tree_ends(prefix, own))) if flat else PackedAttend(prefix, own, device),
        places=torch.tensor([place for place, _ in targets]),
        labels=torch.tensor([label for _, label in targets]),
        weights=torch.tensor(list(targets.values())),
        tokens=sum(len(example.ids) for example in examples),
    ).to(device)


def without_targets(batch: B) -> B:
    """The same batch with weights of 0: it takes part in the computation and changes nothing."""
    return replace(batch, weights=torch.zeros_like(batch.weights))
