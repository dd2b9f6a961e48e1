"""Prepares a decoder for answering: its matrices in the form that this machine multiplies fastest."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct.core.errors import ParamsError
from instruct.core.processor import this_processor
from instruct.core.runtime import Runtime
from instruct.generation.engine import Model
from instruct.generation.int8 import Int8Linear, pays
from instruct.model.decoder import Attend, Decoder
from instruct.model.linear import PackedLinear, SameInput, can_pack
from instruct.model.lora import replace_module


def make_ready(model: Decoder, weights: Literal["fp32", "int8"], runtime: Runtime) -> Model:
    """The model that answers instead of `model`, which must not be used afterwards.

    fp32 gives the same bits as the model itself, with the fastest exact kernels, if the widths of its layers are whole
    tiles (`cache.TILE`); else the last bit may differ. Raises ParamsError for int8 or bf16 on a device or processor
    that is slower with it.
    """
    if weights == "int8":
        _check_int8(model.device.type)
        return ReadyDecoder(model, Int8Linear)
    low = runtime.dtype is not torch.float32
    if low and model.device.type == "cuda":
        return ReadyDecoder(model, partial(CastLinear, dtype=runtime.dtype))
    if can_pack(model.head) and (not low or this_processor().multiplies_bf16):
        return ReadyDecoder(model, partial(PackedLinear, dtype=runtime.dtype))
    return model


def _check_int8(device: str) -> None:
    if device != "cpu":
        raise ParamsError(f"params.yaml: generate.weights is int8, which is for the CPU; on {device} set it to fp32")
    if not pays():
        raise ParamsError(
            "params.yaml: generate.weights is int8, for which this processor has no instructions (VNNI or AMX): it "
            f"would be slower than fp32 on {this_processor().described}; set it to fp32"
        )


class CastLinear(nn.Module):
    """A layer whose weight is cast once: under autocast alone it would be at every call."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class ReadyDecoder:
    """A decoder whose linear layers and output head were exchanged for others."""

    def __init__(self, model: Decoder, to_layer: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
        """`to_layer` makes one of a weight and a bias."""
        for block in model.blocks:
            for module in list(block.modules()):
                if isinstance(module, SameInput):
                    module.join(to_layer)
            for name, layer in list(block.named_modules()):
                if isinstance(layer, nn.Linear):
                    replace_module(block, name, to_layer(layer.weight, layer.bias))
        self._model, self._head = model, to_layer(model.head, None)
        self.block_size, self.device, self.blocks = model.block_size, model.device, model.blocks

    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T) ids and positions → (B, T, C) states after the final norm."""
        return self._model.hidden_states(input_ids, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, C) states → (N, vocab_size)."""
        out: Tensor = self._head(hidden)
        return out
