"""Matrix products of linear layers: the fastest kernel that this processor has for them.

On x86 processors oneDNN multiplies fp32 matrices faster than the BLAS library behind `torch.nn.functional.linear`
in nearly all shapes of small language models, twice as fast in an output head's. Torch itself uses these kernels
only in compiled code, which is why kernels.py calls them by their name; everywhere else torch's own are used. A row
of two or more has the same bits regardless of the other rows.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from instruct.model.kernels import kernels, onednn_pack, onednn_product


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in) times (out, in) plus (out,) → (..., out)."""
    if not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        return _OneDNNLinear.apply(rows, weight, bias).view(*x.shape[:-1], -1)
    return onednn_product(rows, weight, bias).view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A layer of torch that multiplies with `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        return linear(input, self.weight, self.bias)


class SameInput(nn.Module):
    """A module in which the linear layers of these names take the same input; `join` makes them one product.

    Then weights are read in fewer, larger pieces, and 7 products a block are 4.
    """

    names: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.joined: nn.Module | None = None  # one layer for all of them
        self._sizes: list[int] = []

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """(..., in) → for each of the layers (..., out)."""
        if self.joined is not None:
            return cast(Tensor, self.joined(x)).split(self._sizes, dim=-1)
        return [getattr(self, name)(x) for name in self.names]

    def join(self, to_layer: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
        """Put what `to_layer` makes of all weights and biases in the place of the layers, if all are plain ones."""
        layers = [getattr(self, name) for name in self.names]
        if not all(isinstance(layer, nn.Linear) for layer in layers):
            return
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.joined = to_layer(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None)
        self._sizes = [layer.out_features for layer in layers]
        for name in self.names:
            delattr(self, name)


class PackedLinear(nn.Module):
    """A layer for inference whose weight lies as oneDNN's kernels read it: the same bits as `linear`, sooner."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype) -> None:
        """`dtype` is what the kernels multiply in: float32, or bfloat16 where they are to be faster than exact."""
        super().__init__()
        self.out_features, self.dtype = len(weight), dtype
        self.weight = onednn_pack(weight.detach().to(dtype))
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, x.shape[-1]).to(self.dtype)
        return onednn_product(rows, self.weight, self.bias).view(*x.shape[:-1], self.out_features)


def can_pack(weight: Tensor) -> bool:
    """Whether a weight can be put into a PackedLinear."""
    return _suits_onednn(weight, weight)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        kernels().product
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


def _product(left: Tensor, right: Tensor, *, onednn: bool) -> Tensor:
    """(M, K) times (K, N)."""
    return onednn_product(left, right.t(), None) if onednn else left @ right


class _OneDNNLinear(torch.autograd.Function):
    """oneDNN's product with a backward pass, whose kernels are the faster ones on this processor."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _, of_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        kept = rows if of_weight else None  # a frozen weight needs no activations
        ctx.save_for_backward(kept, weight)  # type: ignore[arg-type]
        return onednn_product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        of_rows, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            _product(gradient, weight, onednn=kernels().gradient_of_input) if of_rows else None,
            _product(gradient.t(), rows, onednn=kernels().gradient_of_weight) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
