"""The loss of a batch: cross-entropy at supervised places only."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from instruct.model.decoder import Decoder
from instruct.model.lora import LoraLinear
from instruct.training.collate import Batch


def loss_sum(model: Decoder, batch: Batch) -> Tensor:
    """The weighted sum of negative log-likelihoods in nats, a scalar.

    The caller divides by the weight of the *whole* optimizer step, so that micro-batches of different lengths add
    up to exactly one large batch. The output head, which is a large part of a small model's work, runs only where
    there is a target.
    """
    return (target_losses(model, batch) * batch.weights).sum()


def target_losses(model: Decoder, batch: Batch) -> Tensor:
    """The negative log-likelihood of each target in nats, (N,)."""
    hidden = model.hidden_states(batch.input_ids, batch.positions, batch.attend)  # (B, T, C)
    logits = model.logits(take_rows(hidden.flatten(0, 1), batch.places))  # (N, vocab_size)
    return F.cross_entropy(logits.float(), batch.labels, reduction="none")


def take_rows(states: Tensor, places: Tensor) -> Tensor:
    """(T, C) states → (N, C) at these places, with a gradient that adds up a place's targets in a fixed order.

    On a CPU that is index_select's, faster than indexing's; on a GPU that of a lookup.
    """
    return states.index_select(0, places) if states.device.type == "cpu" else F.embedding(places, states)


class LossModule(nn.Module):
    """The loss of a batch as a module, which is what DDP and FSDP can wrap."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model
        model.lookup_in_place = True
        self.needed_flops = 0.0  # of all training batches so far

    def forward(self, batch: Batch) -> Tensor:
        if self.training:
            self.needed_flops += needed_flops(self.model, batch)
        return self.loss(batch)

    def loss(self, batch: Batch) -> Tensor:
        """The sum over what has a weight in the batch, a scalar."""
        return loss_sum(self.model, batch)

    def take_measures(self, totals: Callable[[Sequence[float]], list[float]]) -> dict[str, float]:
        """What is told beside the loss, by name, of all batches since the last call; `totals` adds up over ranks."""
        return {}

    def clear_measures(self) -> None:
        """Forget what was measured since the last call of `take_measures`."""


def needed_flops(model: Decoder, batch: Batch) -> float:
    """Floating-point operations that one forward and backward pass over a batch really needs."""
    of_token, of_target = operations(model)
    return of_token * batch.input_ids.numel() + of_target * len(batch.places)


def operations(model: Decoder) -> tuple[float, float]:
    """What training needs for each computed token, and for each target.

    Two for each weight of a block's matrices and computed token, two for each weight of the head and target, as
    many for the gradient of what came in, and as many for that of a weight that is trained (Kaplan et al., 2020).
    Attention's own products are left out.
    """

    def of(size: int, weight: Tensor) -> int:
        return size * (6 if weight.requires_grad else 4)

    in_blocks = 0
    for layer in model.blocks.modules():
        if isinstance(layer, nn.Linear):  # a frozen one in 4 bits has fewer elements than its matrix
            in_blocks += of(layer.in_features * layer.out_features, layer.weight)
        elif isinstance(layer, LoraLinear):
            in_blocks += sum(of(weight.numel(), weight) for weight in (layer.lora_A, layer.lora_B))
    return float(in_blocks), float(of(model.head.numel(), model.head))
