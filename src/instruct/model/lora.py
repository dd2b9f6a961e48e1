"""LoRA (Hu et al., 2021): small trainable matrices beside frozen ones, and merging them in.

An adapter is stored in the layout of PEFT, so that other tools load it as it is. Its scale is alpha / rank.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.files import read_json
from instruct.core.params import build, did_you_mean, require
from instruct.model.linear import linear
from instruct.model.settings import LoraParams

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """The fields of adapter_config.json about what the adapter was trained on."""

    base_model_name_or_path: str
    backbone_sha256: tuple[str, ...]


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter: y = W x + b + (alpha / r) · B A dropout(x)."""

    def __init__(self, base: nn.Linear, params: LoraParams) -> None:
        super().__init__()
        self.base, self.params = base, params
        self.scale = params.alpha / params.r
        self.lora_A = nn.Parameter(base.weight.new_empty(params.r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, params.r))

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.params.dropout, self.training)
        return self.base(x) + linear(linear(dropped, self.lora_A), self.lora_B) * self.scale

    def merged(self) -> nn.Linear:
        """The plain layer with the adapter added to its weight."""
        with torch.no_grad():
            delta = self.scale * (self.lora_B.double() @ self.lora_A.double())
            self.base.weight.copy_(self.base.weight.double() + delta)
        return self.base


def add_lora(model: nn.Module, params: LoraParams, seed: int, section: str = "train") -> None:
    """Freeze `model` and put adapters beside its target layers, A drawn from `seed`, B zero.

    Raises ParamsError for a target that no layer is called, and a rank larger than a layer's matrix.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    kinds = {name.rsplit(".", 1)[-1] for name in linear}
    for target in params.target_modules:
        if target not in kinds:
            hint = did_you_mean(target, kinds)
            raise ParamsError(f"params.yaml: {section}.lora.target_modules: no layer is called {target}{hint}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in linear.items():
        if params.target_modules and name.rsplit(".", 1)[-1] not in params.target_modules:
            continue
        smaller = min(layer.in_features, layer.out_features)
        if params.r > smaller:
            raise ParamsError(
                f"params.yaml: {section}.lora.r must be at most {smaller}, the size of {name}; is {params.r}"
            )
        adapted = LoraLinear(layer, params)
        bound = math.sqrt(3) * math.sqrt(2 / (1 + 5)) / math.sqrt(layer.in_features)  # Kaiming, a = sqrt(5)
        drawn = torch.empty(adapted.lora_A.shape).uniform_(-bound, bound, generator=generator)
        adapted.lora_A.data.copy_(drawn)
        replace_module(model, name, adapted)


def merge_lora(model: nn.Module) -> None:
    """Turn every adapted layer back into a plain one whose weight includes the adapter."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            replace_module(model, name, module.merged())


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module `name` of `model` by `module`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has adapters."""
    return any(isinstance(module, LoraLinear) for module in model.modules())


def dropout_of(model: nn.Module) -> float:
    """The dropout of the model's adapters; 0 without any."""
    return max((module.params.dropout for module in model.modules() if isinstance(module, LoraLinear)), default=0.0)


def adapter_tensors(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The adapters among a model's weights, by PEFT's names; `prefix` is that of Hugging Face checkpoints."""
    return {
        f"{_PEFT_PREFIX}{prefix}{name}.weight": tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if name.endswith((".lora_A", ".lora_B"))
    }


def fill_adapter(model: nn.Module, prefix: str, weights: Iterable[tuple[str, Tensor]], *, where: str) -> None:
    """Copy stored tensors into the adapters; raises CheckpointError where they do not fit."""
    wanted = dict(model.named_parameters())
    missing = set(adapter_tensors(wanted, prefix))
    for name, tensor in weights:
        target = wanted.get(name.removeprefix(_PEFT_PREFIX + prefix).removesuffix(".weight"))
        if name not in missing or target is None:
            raise CheckpointError(f"{where}: the tensor {name} has no place in this model; train again")
        if target.shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(target.shape)}"
            raise CheckpointError(f"{where}: the tensor {name} has shape {shapes}; train again")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: the tensor {name} holds {tensor.dtype}, not numbers; train again")
        check_finite(name, tensor, where=where)
        target.data.copy_(tensor)
        missing.discard(name)
    if missing:
        raise CheckpointError(f"{where}: the tensor {min(missing)} is missing; train again")


def check_finite(name: str, tensor: Tensor, *, where: str) -> None:
    """Raise CheckpointError for NaN and infinity, which would silently turn every answer into noise."""
    if not all(torch.isfinite(bound) for bound in tensor.float().aminmax()):
        raise CheckpointError(f"{where}: the tensor {name} holds NaN or infinity; fetch it or train again")


def adapter_config(model: nn.Module, base: str, checksums: Sequence[str | None], *, transposed: bool) -> dict[str, Any]:
    """The adapter_config.json for PEFT, with the fields that find and verify what the adapter was trained on.

    `transposed` says whether that stores its matrices so, as GPT-2 does.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    params = next(iter(layers.values())).params
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": params.r,
        "lora_alpha": params.alpha,
        "lora_dropout": params.dropout,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in layers}),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "trained_on_base": params.base,
        "backbone_sha256": list(checksums),
    }


def read_adapter_config(path: Path) -> tuple[str, list[str], LoraParams]:
    """The name of what an adapter was trained on, a backbone or a folder, its checksums, and the adapter's settings."""
    try:
        value = read_json(path)
        names = {"alpha": "lora_alpha", "dropout": "lora_dropout", "base": "trained_on_base"}
        given = {field.name: value[names.get(field.name, field.name)] for field in fields(LoraParams)}
        params = build(LoraParams, given, where=str(path))
        require("r", params.r, params.r >= 1, "at least 1")
        origin = build(_Origin, {name: value[name] for name in _Origin.__annotations__}, where=str(path))
    except (DataError, ParamsError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not an adapter of ours ({error})") from None
    return origin.base_model_name_or_path, list(origin.backbone_sha256), params
