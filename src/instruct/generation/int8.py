"""Weights in 8 bits for answering on a CPU: four times as many products a second, nearly the same answers.

A weight is rounded to 127 steps of its row's largest, an activation to those of its token's largest (as in
CTranslate2). Products of whole numbers are summed exactly, so that an answer still never depends on its neighbours.
That takes instructions that sum products of 8 bits in 32; without them int8 is slower than float32, and refused.
"""

from functools import cache

import torch
from torch import Tensor, nn

from instruct.core.processor import this_processor
from instruct.model.kernels import int8_product

STEPS = 127


class Int8Linear(nn.Module):
    """y = W x + b with W and x in int8 and one scale a row of W and a token."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.scale = to_int8(weight.detach())  # (out, in) and (out, 1)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out) float32."""
        rows, scale = to_int8(x.flatten(0, -2).float())
        y = int8_product(rows, self.weight.t()).float().mul_(scale).mul_(self.scale.t())
        if self.bias is not None:
            y += self.bias
        return y.unflatten(0, x.shape[:-1])


@cache
def pays() -> bool:
    """Whether this processor multiplies 8 bits faster than float32, and sums the largest products without saturating.

    It may have been told to do without those instructions, by ONEDNN_MAX_CPU_ISA.
    """
    if not this_processor().multiplies_int8:
        return False
    largest = torch.full((64, 64), STEPS, dtype=torch.int8)
    return bool((int8_product(largest, largest.t()) == 64 * STEPS**2).all())


def to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) rows as whole numbers of up to STEPS, and the (N, 1) scales that give them back."""
    scale = rows.abs().amax(dim=1, keepdim=True).div_(STEPS).clamp_min_(torch.finfo(torch.float32).tiny)
    return rows.div(scale).round_().to(torch.int8), scale
