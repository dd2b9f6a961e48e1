"""llama.cpp's names for the tensors of each family, by gguf's own table, and its metadata fields for their shape.

A family is one entry of `FAMILIES`, by the `model_type` of its config.json.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import gguf
import torch
from torch import Tensor

from instruct.core.errors import CheckpointError
from instruct.model.checkpoint import Model
from instruct.model.llama import LlamaConfig, unscaled_speeds

ROPE_FACTORS = "rope_freqs.weight"
Fields = Mapping[str, str]
"""Field of the architecture → key of config.json."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture of llama.cpp.

    `heads` maps the parts whose rows llama.cpp stores with rotary pairs side by side (its order for Llama) to the
    config's key for their number of heads. `whole` and `real` are fields that hold whole and real numbers.
    """

    architecture: str
    whole: Fields
    real: Fields
    heads: Fields = field(default_factory=dict)


_LLAMA_WHOLE = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
_LLAMA_REAL = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}
FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        architecture="gpt2",
        whole={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
        },
        real={"attention.layer_norm_epsilon": "layer_norm_epsilon"},
    ),
    "llama": Family(
        architecture="llama",
        whole=_LLAMA_WHOLE,
        real=_LLAMA_REAL,
        heads={"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"},
    ),
    # Qwen keeps the pairs half a head apart, like our model.
    **{name: Family(architecture=name, whole=_LLAMA_WHOLE, real=_LLAMA_REAL) for name in ("qwen2", "qwen3")},
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json; raises CheckpointError for one that has no entry."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise CheckpointError(f'a model of type "{kind}" cannot be written as GGUF; only {", ".join(FAMILIES)} can')
    return FAMILIES[kind]


def shape_fields(family: Family, config: Mapping[str, Any]) -> dict[str, int | float]:
    """The fields that describe the shape, by their full names.

    Raises CheckpointError for rotations that are scaled in a family whose factors llama.cpp would not read.
    """
    if config.get("rope_scaling") and family.architecture != "llama":
        raise CheckpointError(
            f"llama.cpp reads no rope_scaling in a {family.architecture} model; export hf, onnx or torch"
        )
    numbers: dict[str, int | float] = {name: int(config[key]) for name, key in family.whole.items()}
    numbers |= {name: float(config[key]) for name, key in family.real.items()}
    if family.architecture == "gpt2":
        numbers["feed_forward_length"] = 4 * int(config["n_embd"])
    else:
        size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
        numbers |= dict.fromkeys(("rope.dimension_count", "attention.key_length", "attention.value_length"), size)
    return {f"{family.architecture}.{name}": value for name, value in numbers.items()}


def stored_name(family: Family, name: str) -> str:
    """llama.cpp's name for one of our tensors; raises CheckpointError if it has none."""
    layer = next((int(part) for part in name.split(".") if part.isdecimal()), 0)
    known = _known_names(family.architecture, layer)
    stored = known.get_name(name, (".weight", ".bias")) or known.get_name(f"model.{name}", (".weight", ".bias"))
    if stored is None:
        raise CheckpointError(f"the tensor {name} has no name in llama.cpp's {family.architecture}")
    return stored


@cache
def _known_names(architecture: str, layer: int) -> gguf.TensorNameMap:
    """Gguf's names of the tensors outside of layers and in the layers up to this one."""
    by_name = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(by_name[architecture], layer + 1)


def stored_tensors(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Each weight of a model by llama.cpp's name, (out, in) and with the rows in its order.

    Llama 3's scaled rotations are a tensor there too: by how much each pair of a head turns more slowly.
    """
    config = model.config.to_huggingface()
    family = family_of(config)
    for name, weight in model.state_dict().items():
        stored = stored_name(family, name)
        yield stored, in_stored_order(family, config, stored, weight)
    if isinstance(model.config, LlamaConfig) and model.config.rope_scaling:
        speeds = unscaled_speeds(model.config)
        yield ROPE_FACTORS, model.config.rope_scaling.slow(speeds) / speeds


def in_stored_order(family: Family, config: Mapping[str, Any], stored: str, rows: Tensor) -> Tensor:
    """Rows (or a bias) of queries and keys with rotary pairs side by side; Llama has them half a head apart."""
    part = stored.rpartition(".")[0].rpartition(".")[2]
    if part not in family.heads:
        return rows
    heads = int(config[family.heads[part]])
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).to(torch.float32).contiguous()
