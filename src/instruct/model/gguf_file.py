"""Reads a Llama from a GGUF file: shape, tokenizer and weights, dequantised to float32.

GGUF is llama.cpp's format; `gguf_header` finds the parts, and the package `gguf` knows the block quantisations.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import gguf
import numpy as np
import torch
from torch import Tensor

from instruct.core.errors import BackboneError, CheckpointError
from instruct.core.params import describe
from instruct.model.gguf_header import GGUFHeader, StoredTensor
from instruct.model.llama import LlamaConfig
from instruct.text.tokenizer import END_OF_TEXT, Tokenizer, make_tokenizer, token_bytes

T = TypeVar("T")

_NAMES = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SPECIAL, _UNKNOWN = 3, 2


class GGUFFile:
    """An open GGUF file of the Llama architecture; raises BackboneError where it is anything else."""

    def __init__(self, path: Path) -> None:
        self.path, self._header = path, GGUFHeader(path)
        architecture = self._field("general.architecture", str)
        if architecture != "llama":
            raise BackboneError(f'{path}: holds a "{architecture}" model; only "llama" can be read from GGUF')

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

    def config(self) -> LlamaConfig:
        """The model's shape, from the file's own fields."""
        scaling = self._header.fields.get("llama.rope.scaling.type", "none")
        if scaling != "none":
            raise BackboneError(f"{self.path}: scaled rotary positions are a variant that cannot be loaded")
        try:
            return self._config()
        except CheckpointError as error:
            raise BackboneError(f"{self.path}: {error}") from None

    def _config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=len(self._list("tokenizer.ggml.tokens", str)),
            max_position_embeddings=self._field("llama.context_length", int),
            hidden_size=self._field("llama.embedding_length", int),
            intermediate_size=self._field("llama.feed_forward_length", int),
            num_hidden_layers=self._field("llama.block_count", int),
            num_attention_heads=self._field("llama.attention.head_count", int),
            num_key_value_heads=self._field("llama.attention.head_count_kv", int),
            # Stored as float32: seven digits are what was meant.
            rms_norm_eps=float(f"{self._field('llama.attention.layer_norm_rms_epsilon', float):.6g}"),
            rope_theta=float(f"{self._field('llama.rope.freq_base', float):.6g}"),
            eos_token_id=self._field("tokenizer.ggml.eos_token_id", int),
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, whose vocabulary is stored in the order of its merges."""
        kind = self._field("tokenizer.ggml.model", str), self._field("tokenizer.ggml.pre", str)
        if kind != ("gpt2", "smollm"):
            raise BackboneError(f"{self.path}: its tokenizer is of kind {kind}; only ('gpt2', 'smollm') can be read")
        spelled, types = self._list("tokenizer.ggml.tokens", str), self._list("tokenizer.ggml.token_type", int)
        pairs, eos = self._list("tokenizer.ggml.merges", str), self._field("tokenizer.ggml.eos_token_id", int)
        try:
            return _tokenizer(spelled, types, pairs, eos)
        except (ValueError, KeyError) as error:
            raise BackboneError(f"{self.path}: its tokenizer cannot be used ({error}); fetch it again") from None

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight by the name that `Llama` gives it, one at a time, so that memory holds them once."""
        config = self.config()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for tensor in self._header.tensors:
            name, part = self._name(tensor.name)
            values = self._values(tensor)
            if part in heads:
                if values.ndim != 2 or values.shape[0] % (2 * heads[part]):
                    raise BackboneError(f"{self.path}: the tensor {tensor.name} has the shape {tensor.shape}")
                values = _pairs_apart(values, heads[part])
            yield name, values

    def _name(self, stored: str) -> tuple[str, str]:
        """What `Llama` calls a tensor, and llama.cpp's name of the part that it belongs to."""
        if stored in _NAMES:
            return _NAMES[stored], ""
        layer, part = [*stored.split("."), "", ""][1:3]
        if part not in _LAYER_NAMES or stored != f"blk.{layer}.{part}.weight":
            raise BackboneError(f"{self.path}: the tensor {stored} has no place in a Llama; it cannot be used")
        return f"layers.{layer}.{_LAYER_NAMES[part]}.weight", part

    def _values(self, tensor: StoredTensor) -> Tensor:
        try:
            numbers = gguf.dequantize(self._header.content(tensor), tensor.kind)
        except NotImplementedError:
            raise BackboneError(
                f"{self.path}: the tensor {tensor.name} is stored as {tensor.kind.name}, which cannot be read"
            ) from None
        return torch.from_numpy(np.array(numbers, dtype=np.float32))


def _tokenizer(spelled: list[str], types: list[int], pairs: list[str], eos: int) -> Tokenizer:
    """Raises ValueError or KeyError where the parts do not fit together."""
    if len(types) != len(spelled) or len(set(spelled)) != len(spelled):
        raise ValueError("tokens appear twice or have no type")
    special = {token: i for i, token in enumerate(spelled) if types[i] in (_SPECIAL, _UNKNOWN)}
    if eos not in special.values() or END_OF_TEXT not in special:
        raise ValueError(f"the end token {eos} or {END_OF_TEXT} is missing")
    tokens = [token.encode() if token in special else token_bytes(token) for token in spelled]
    in_order = [token for i, token in enumerate(tokens) if len(token) > 1 and types[i] not in (_SPECIAL, _UNKNOWN)]
    if [token_bytes(pair.replace(" ", "")) for pair in pairs] != in_order:
        raise ValueError("merges are not in the order of tokens")
    return make_tokenizer(tokens, special, "smollm", eos_id=eos)


def _pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows: it keeps a rotary pair side by side, Llama has it half a head apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
