"""Reads a model from a GGUF file: shape, tokenizer and weights, dequantised to float32.

GGUF is llama.cpp's format; `gguf_header` finds the parts, and the package `gguf` knows the block quantisations. Every
field of a model's architecture is known here or refused, as every key of a config.json is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import gguf
import numpy as np
import torch
from torch import Tensor

from instruct.core.errors import BackboneError, CheckpointError
from instruct.core.params import describe
from instruct.model.config_file import Config
from instruct.model.gguf_header import GGUFHeader, StoredTensor
from instruct.model.gguf_tokenizer import LAYOUT_OF, tokenizer_of
from instruct.model.gpt2 import GPT2, GPT2Config
from instruct.model.llama import LlamaConfig, RopeScaling
from instruct.text.tokenizer import Tokenizer

T = TypeVar("T")

_ROPE_FACTORS, _OUTPUT = "rope_freqs.weight", "output.weight"
_NAMES = {
    "llama": {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"},
    "gpt2": {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "output": "lm_head"},
}
_LAYER_NAMES = {
    "llama": {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    "gpt2": {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
}
# The parts that have biases; other architectures have none.
_BIASED = {"qwen2": {"attn_q", "attn_k", "attn_v"}, "gpt2": {"output_norm", *_LAYER_NAMES["gpt2"]}}
_PLAIN = {"context_length", "embedding_length", "block_count", "attention.head_count", "vocab_size"}
_OF_LLAMA = {
    "feed_forward_length", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count", "rope.scaling.type",
}  # fmt: skip
_FIELDS = {
    "llama": _PLAIN | _OF_LLAMA,
    "qwen2": _PLAIN | _OF_LLAMA,
    "qwen3": _PLAIN | _OF_LLAMA,
    "gpt2": _PLAIN | {"feed_forward_length", "attention.layer_norm_epsilon"},
}


class GGUFFile:
    """An open GGUF file of a supported architecture; raises BackboneError for any other file."""

    def __init__(self, path: Path) -> None:
        self.path, self._header = path, GGUFHeader(path)
        self.architecture = self._field("general.architecture", str)
        if self.architecture not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise BackboneError(f'{path}: holds a "{self.architecture}" model; only {known} can be read from GGUF')
        self._names = "gpt2" if self.architecture == "gpt2" else "llama"
        self._tensors = {tensor.name: tensor for tensor in self._header.tensors}

    def _field(self, name: str, kind: type[T]) -> T:
        value = self._header.fields.get(name)
        if value is None:
            raise BackboneError(f"{self.path}: the field {name} is missing; fetch it again")
        if type(value) is not kind:
            raise BackboneError(f"{self.path}: the field {name} must be {kind.__name__}, is {describe(value)}")
        return value

    def _list(self, name: str, kind: type[T]) -> list[T]:
        values = self._field(name, list)
        if not all(type(value) is kind for value in values):
            raise BackboneError(f"{self.path}: the field {name} must hold {kind.__name__} only; fetch it again")
        return values

    def _size(self, name: str) -> int:
        return self._field(f"{self.architecture}.{name}", int)

    def _number(self, name: str) -> float:
        # Stored as float32: seven digits are what was meant.
        return float(f"{self._field(f'{self.architecture}.{name}', float):.6g}")

    def config(self) -> Config:
        """The model's shape, from the file's own fields."""
        self._refuse_unknown_fields()
        try:
            return self._gpt2_config() if self.architecture == "gpt2" else self._llama_config()
        except CheckpointError as error:
            raise BackboneError(f"{self.path}: {error}") from None

    def _refuse_unknown_fields(self) -> None:
        if self._header.fields.get(f"{self.architecture}.rope.scaling.type", "none") != "none":
            raise BackboneError(f"{self.path}: scaled rotary positions are a variant that cannot be loaded")
        for name in self._header.fields:
            own = name.removeprefix(f"{self.architecture}.")
            if own != name and own not in _FIELDS[self.architecture]:
                raise BackboneError(f"{self.path}: the field {name} is a setting that is not supported")

    def _gpt2_config(self) -> GPT2Config:
        config = GPT2Config(
            vocab_size=len(self._list("tokenizer.ggml.tokens", str)),
            n_positions=self._size("context_length"),
            n_embd=self._size("embedding_length"),
            n_layer=self._size("block_count"),
            n_head=self._size("attention.head_count"),
            layer_norm_epsilon=self._number("attention.layer_norm_epsilon"),
            eos_token_id=self._field("tokenizer.ggml.eos_token_id", int),
        )
        if self._size("feed_forward_length") != 4 * config.n_embd:
            raise CheckpointError("gpt2.feed_forward_length is not four times the embedding_length")
        return config

    def _llama_config(self) -> LlamaConfig:
        fields = self._header.fields
        shape: dict[str, Any] = {
            "family": self.architecture,
            "vocab_size": len(self._list("tokenizer.ggml.tokens", str)),
            "max_position_embeddings": self._size("context_length"),
            "hidden_size": self._size("embedding_length"),
            "intermediate_size": self._size("feed_forward_length"),
            "num_hidden_layers": self._size("block_count"),
            "num_attention_heads": self._size("attention.head_count"),
            "num_key_value_heads": self._size("attention.head_count_kv"),
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._number("rope.freq_base"),
            "eos_token_id": self._field("tokenizer.ggml.eos_token_id", int),
            "tied": _OUTPUT not in self._tensors,
        }
        if f"{self.architecture}.attention.key_length" in fields:
            shape["head_dim"] = self._size("attention.key_length")
        config = LlamaConfig(**shape)
        for name in ("attention.value_length", "rope.dimension_count"):
            if fields.get(f"{self.architecture}.{name}", config.head_dim) != config.head_dim:
                raise CheckpointError(f"{self.architecture}.{name} is not the size of a head, {config.head_dim}")
        if _ROPE_FACTORS not in self._tensors or self.architecture != "llama":
            return config
        return LlamaConfig(**{**vars(config), "rope_scaling": self._scaling(config)})

    def _scaling(self, config: LlamaConfig) -> RopeScaling | None:
        """The scaling from the factors in the file; Meta's models differ only in the largest factor."""
        factors = self._values(self._tensors[_ROPE_FACTORS])
        largest = float(f"{float(factors.max()):.6g}")
        if factors.shape != (config.head_dim // 2,) or not bool((factors >= 1).all()):
            raise CheckpointError(f"the tensor {_ROPE_FACTORS} does not hold factors from 1 for half a head")
        if largest == 1:
            return None
        scaling = RopeScaling(
            factor=largest, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        )
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        per_radian = config.rope_theta**powers
        if not torch.allclose(scaling.slow(per_radian) / per_radian, factors, rtol=1e-3):
            raise CheckpointError(f"the tensor {_ROPE_FACTORS} scales rotary positions in a way that cannot be loaded")
        return scaling

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, whose vocabulary is stored in the order of its merges."""
        kind = self._field("tokenizer.ggml.model", str), self._field("tokenizer.ggml.pre", str)
        if kind[0] != "gpt2" or kind[1] not in LAYOUT_OF:
            known = " or ".join(LAYOUT_OF)
            raise BackboneError(f"{self.path}: its tokenizer is of kind {kind}; only gpt2 with {known} can be read")
        spelled, types = self._list("tokenizer.ggml.tokens", str), self._list("tokenizer.ggml.token_type", int)
        pairs, eos = self._list("tokenizer.ggml.merges", str), self._field("tokenizer.ggml.eos_token_id", int)
        begin = None
        if self._header.fields.get("tokenizer.ggml.add_bos_token", LAYOUT_OF[kind[1]] == "llama3") is True:
            begin = self._field("tokenizer.ggml.bos_token_id", int)
        try:
            return tokenizer_of(spelled, types, pairs, layout=LAYOUT_OF[kind[1]], eos=eos, begin=begin)
        except (ValueError, KeyError, IndexError) as error:
            raise BackboneError(f"{self.path}: its tokenizer cannot be used ({error}); fetch it again") from None

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight by the name that its model gives it, one at a time, so that memory holds them once."""
        config = self.config()
        heads: dict[str, int] = {}
        if isinstance(config, LlamaConfig) and self.architecture == "llama":
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for tensor in self._header.tensors:
            if tensor.name == _ROPE_FACTORS and self.architecture == "llama":
                continue  # part of the shape
            name, part = self._name(tensor.name)
            values = self._values(tensor)
            if part in heads:
                if values.ndim != 2 or values.shape[0] % (2 * heads[part]):
                    raise BackboneError(f"{self.path}: the tensor {tensor.name} has the shape {tensor.shape}")
                values = _pairs_apart(values, heads[part])
            # Stored as they multiply; `fill` expects them as they are published.
            yield name, values.t() if self.architecture == "gpt2" and name.endswith(GPT2.transposed) else values

    def _name(self, stored: str) -> tuple[str, str]:
        """The model's name of a tensor, and llama.cpp's name of its part."""
        names, layer_names = _NAMES[self._names], _LAYER_NAMES[self._names]
        whole, _, kind = stored.rpartition(".")
        layer, part = [*whole.split("."), "", ""][1:3]
        biased = _BIASED.get(self.architecture, set())
        if kind == "weight" or (kind == "bias" and biased & {whole, part}):
            if whole in names:
                return f"{names[whole]}.{kind}", ""
            if part in layer_names and whole == f"blk.{layer}.{part}":
                return f"{'h' if self._names == 'gpt2' else 'layers'}.{layer}.{layer_names[part]}.{kind}", part
        raise BackboneError(f"{self.path}: the tensor {stored} has no place in this model; it cannot be used")

    def _values(self, tensor: StoredTensor) -> Tensor:
        try:
            numbers = gguf.dequantize(self._header.content(tensor), tensor.kind)
        except NotImplementedError:
            raise BackboneError(
                f"{self.path}: the tensor {tensor.name} is stored as {tensor.kind.name}, which cannot be read"
            ) from None
        return torch.from_numpy(np.array(numbers, dtype=np.float32))


def _pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows: it keeps a rotary pair side by side, Llama has it half a head apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
