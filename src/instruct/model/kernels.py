"""All our uses of torch's private operators, and the choice of the matrix kernel by processor.

The table is by vendor and instruction set, measured once; nothing is timed at run time, so that results repeat.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from instruct.core.processor import Processor, this_processor

ROWS = 64  # for so many a weight is packed, which is a hint only


@dataclass(frozen=True)
class Kernels:
    """Who multiplies in float32: oneDNN, or the BLAS library behind torch."""

    product: bool  # oneDNN: of what comes in and the weight
    gradient_of_input: bool  # oneDNN: of what comes back and the weight
    gradient_of_weight: bool  # oneDNN: of what comes back and what came in


BLAS, ONEDNN = Kernels(False, False, False), Kernels(True, True, False)
# In products of small language models oneDNN is up to twice as fast as BLAS. On two cores of an EPYC, in a training
# step's sizes:
# - With AVX2 only it is slower in gradients.
# - With AVX-512 it is faster throughout, and a step of which it computes the weights' gradients too was 6 % shorter.
# Intel with AVX-512 was measured without those; what is not listed was not, and is treated alike.
TABLE = {
    ("AuthenticAMD", "avx2"): Kernels(True, False, False),
    ("AuthenticAMD", "avx512"): Kernels(True, True, True),
}


def choose_kernels(processor: Processor, *, onednn: bool) -> Kernels:
    """The same kernels each time on the same processor; `onednn` says whether torch has it."""
    if not onednn or not processor.x86:
        return BLAS
    return TABLE.get((processor.vendor, processor.instructions), ONEDNN)


@cache
def kernels() -> Kernels:
    """Those of this processor."""
    return choose_kernels(this_processor(), onednn=torch.backends.mkldnn.is_available())


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, in) times (out, in), plain or packed, plus (out,) → (N, out)."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def onednn_pack(weight: Tensor) -> Tensor:
    """A weight as oneDNN's kernels read it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """(N, in) times (in, out), both int8 → (N, out) int32."""
    return torch._int_mm(rows, weight)
