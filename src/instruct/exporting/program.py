"""The model as one traceable function of tensors, for ONNX and torch.export, with torch's own kernels.

B batch · T new tokens · S tokens in the cache · H key heads · D head size · V vocabulary
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx.experimental._config
import torch.nn.functional as F
from torch import Tensor, nn

from instruct.model.checkpoint import Model
from instruct.model.decoder import repeat_keys
from instruct.model.linear import Linear
from instruct.model.llama import Attention, Llama, turned, unscaled_speeds
from instruct.model.lora import replace_module

TRACED = {"batch": 2, "new": 3, "seen": 4}
"""Sizes of the traced inputs: two or more, because torch takes 0 and 1 for constants."""


class Program(nn.Module):
    """Token ids, mask, positions and the cache → logits and the larger cache.

    `attention_mask` (B, S + T) is 0 for padding. Without a cache S is 0, and only the logits come out.
    """

    def __init__(self, model: Model, *, cache: bool) -> None:
        """Changes the model in place: its linear layers become torch's own, which exporters support."""
        super().__init__()
        self.cache = cache
        self.speeds: Tensor
        self.model = model.eval().requires_grad_(False)
        for name, module in list(model.named_modules()):
            if isinstance(module, Linear):
                replace_module(model, name, _plain(module))
            if isinstance(module, Attention):
                _spell_out_norms(module)
        if isinstance(model, Llama):
            self._keep_speeds(model)

    def _keep_speeds(self, model: Llama) -> None:
        """Store the rotations' speeds as numbers: a runtime's own power is off by a part in 10 million.

        At position 200 that is an angle of 2e-5, at 8,192 one of 1e-3.
        """
        speeds = unscaled_speeds(model.config)
        scaling = model.config.rope_scaling
        self.register_buffer("speeds", scaling.slow(speeds) if scaling else speeds)
        model.rotation = lambda positions: turned(positions, self.speeds)  # type: ignore[method-assign]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> Any:
        """(B, T), (B, S + T), (B, T) and 2 · layers of (B, H, S, D) → (B, T, V), and 2 · layers of (B, H, S + T, D)."""
        attend = _Attend(attention_mask, input_ids.shape[1], past)
        hidden = self.model.hidden_states(input_ids, position_ids, attend)
        logits = F.linear(hidden, self.model.head)
        return (logits, *attend.present) if self.cache else logits


class _Attend:
    """Attention over the cache and the new tokens, every size an expression of the inputs' sizes."""

    def __init__(self, attention_mask: Tensor, new: int, past: Sequence[Tensor]) -> None:
        self._past, self.present = past, list[Tensor]()
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        rows = torch.arange(new, device=attention_mask.device) + (attention_mask.shape[1] - new)
        visible = (places[None, :] <= rows[:, None])[None, None] & (attention_mask[:, None, None, :] > 0)
        # A padding row sees no token: with infinities it would be NaN.
        self._bias = torch.where(visible, 0.0, torch.finfo(torch.float32).min)  # (B, 1, T, S + T)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._past:
            k = torch.cat((self._past[2 * layer], k), dim=2)
            v = torch.cat((self._past[2 * layer + 1], v), dim=2)
        self.present += [k, v]
        return F.scaled_dot_product_attention(q, repeat_keys(q, k), repeat_keys(q, v), attn_mask=self._bias)


def _spell_out_norms(attention: Attention) -> None:
    """Norm queries and keys by simple operations: torch's own treats a single token as a special case."""
    for name in ("q_norm", "k_norm"):
        if norm := getattr(attention, name):
            setattr(attention, name, _Norm(norm))


class _Norm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps or torch.finfo(torch.float32).eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def _plain(layer: Linear) -> nn.Linear:
    """The same weights in torch's own layer."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain


def cache_shape(model: Model) -> dict[str, int]:
    """The number of layers, of key heads, and the size of a head."""
    config = model.config.to_huggingface()
    heads = config.get("num_attention_heads") or config["n_head"]
    width = config.get("hidden_size") or config["n_embd"]
    return {
        "layers": len(model.blocks),
        "heads": config.get("num_key_value_heads") or heads,
        "size": config.get("head_dim") or width // heads,
    }


def traced_inputs(model: Model, *, cache: bool) -> tuple[Tensor, ...]:
    """Inputs to trace with."""
    batch, new, seen = TRACED["batch"], TRACED["new"], TRACED["seen"] if cache else 0
    shape = cache_shape(model)
    ids = torch.zeros(batch, new, dtype=torch.int64)
    mask = torch.ones(batch, seen + new, dtype=torch.int64)
    positions = torch.arange(seen, seen + new).expand(batch, new).contiguous()
    past = [torch.zeros(batch, shape["heads"], seen, shape["size"]) for _ in range(2 * shape["layers"] * cache)]
    return ids, mask, positions, *past


def trace(model: Model, *, cache: bool) -> torch.export.ExportedProgram:
    """The model as a program for any batch and any number of tokens from 1 on, with a cache of any length from 0 on.

    Changes the model in place. By default torch specialises sizes 0 and 1 and refuses them later.
    """
    shapes = dynamic_shapes(model, cache=cache)
    settings: Any = torch.fx.experimental._config
    with torch.no_grad(), settings.patch(backed_size_oblivious=True):
        return torch.export.export(
            Program(model, cache=cache),
            traced_inputs(model, cache=cache),
            dynamic_shapes=shapes if cache else shapes[:3],
        )


def dynamic_shapes(model: Model, *, cache: bool) -> tuple[Any, ...]:
    """Which sizes of the inputs may vary, and from which minimum."""
    some, none = torch.export.Dim.DYNAMIC(min=1), torch.export.Dim.DYNAMIC(min=0)
    pair, past = {0: some, 1: some}, {0: some, 2: none}
    return pair, pair, pair, tuple(past for _ in range(2 * len(model.blocks) * cache))


def tensor_names(model: Model, *, cache: bool) -> tuple[list[str], list[str]]:
    """The names of inputs and outputs, like those of Hugging Face's ONNX models."""
    pairs = [(layer, part) for layer in range(len(model.blocks) * cache) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{i}.{part}" for i, part in pairs)]
    return inputs, ["logits", *(f"present.{i}.{part}" for i, part in pairs)]
