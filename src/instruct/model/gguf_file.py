"""Reads a Llama from a GGUF file: shape, tokenizer and weights, dequantised to float32.

GGUF is llama.cpp's format; the package `gguf` knows its layout and its block quantisations.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from instruct.core.errors import BackboneError
from instruct.model.llama import LlamaConfig
from instruct.text.tokenizer import Tokenizer, make_tokenizer, token_bytes

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
        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError) as error:
            raise BackboneError(f"{path}: not a whole GGUF file ({error}); fetch it again") from None
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise BackboneError(f'{path}: holds a "{architecture}" model; only "llama" can be read from GGUF')

    def _field(self, name: str) -> Any:
        field = self._reader.get_field(name)
        if field is None:
            raise BackboneError(f"{self.path}: the field {name} is missing; fetch it again")
        return field.contents()

    def config(self) -> LlamaConfig:
        """The model's shape, from the file's own fields."""
        scaling = self._reader.get_field("llama.rope.scaling.type")
        if scaling is not None and scaling.contents() != "none":
            raise BackboneError(f"{self.path}: scaled rotary positions are a variant that cannot be loaded")
        return LlamaConfig(
            vocab_size=len(self._field("tokenizer.ggml.tokens")),
            max_position_embeddings=self._field("llama.context_length"),
            hidden_size=self._field("llama.embedding_length"),
            intermediate_size=self._field("llama.feed_forward_length"),
            num_hidden_layers=self._field("llama.block_count"),
            num_attention_heads=self._field("llama.attention.head_count"),
            num_key_value_heads=self._field("llama.attention.head_count_kv"),
            # Stored as float32: seven digits are what was meant.
            rms_norm_eps=float(f"{self._field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
            rope_theta=float(f"{self._field('llama.rope.freq_base'):.6g}"),
            eos_token_id=self._field("tokenizer.ggml.eos_token_id"),
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, whose vocabulary is stored in the order of its merges."""
        kind = self._field("tokenizer.ggml.model"), self._field("tokenizer.ggml.pre")
        if kind != ("gpt2", "smollm"):
            raise BackboneError(f"{self.path}: its tokenizer is of kind {kind}; only ('gpt2', 'smollm') can be read")
        spelled = self._field("tokenizer.ggml.tokens")
        types = self._field("tokenizer.ggml.token_type")
        special = {token: i for i, token in enumerate(spelled) if types[i] in (_SPECIAL, _UNKNOWN)}
        tokens = [token.encode() if token in special else token_bytes(token) for token in spelled]
        merged = [token_bytes(pair.replace(" ", "")) for pair in self._field("tokenizer.ggml.merges")]
        in_order = [token for token in tokens[len(special) :] if len(token) > 1]
        if merged != in_order:
            raise BackboneError(f"{self.path}: its merges are not in the order of its tokens; it cannot be used")
        return make_tokenizer(tokens, special, "smollm", eos_id=self._field("tokenizer.ggml.eos_token_id"))

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight by the name that `Llama` gives it, one at a time, so that memory holds them once."""
        config = self.config()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for tensor in self._reader.tensors:
            values = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
            if tensor.name in _NAMES:
                yield _NAMES[tensor.name], values
                continue
            block, layer, part, kind = [*tensor.name.split("."), "", "", ""][:4]
            if block != "blk" or part not in _LAYER_NAMES or kind != "weight":
                raise BackboneError(f"{self.path}: the tensor {tensor.name} has no place in a Llama; it cannot be used")
            if part in heads:
                values = _pairs_apart(values, heads[part])
            yield f"layers.{layer}.{_LAYER_NAMES[part]}.weight", values


def _pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows: it keeps a rotary pair side by side, Llama has it half a head apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
