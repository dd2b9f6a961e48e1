"""Llama and the families built like it: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Qwen2 adds biases to queries, keys and values; Qwen3 norms queries and keys instead. Names are those of Hugging Face
checkpoints.

B batch · T tokens · C hidden_size · H query heads · G query heads a key head · D head size
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct.core.errors import CheckpointError
from instruct.model.decoder import Attend, Decoder, unset_embedding
from instruct.model.limits import check_shape
from instruct.model.linear import Linear, SameInput

Family = Literal["llama", "qwen2", "qwen3"]
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's way to a longer context: slow rotations are slowed down by `factor`, fast ones stay as they are."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        numbers = {name: float(value) for name, value in vars(self).items()}
        check_shape(1, {}, numbers)
        if not self.low_freq_factor < self.high_freq_factor:
            raise CheckpointError("config: rope low_freq_factor must be below high_freq_factor")

    def slow(self, per_radian: Tensor) -> Tensor:
        """(D/2,) positions that turn a pair by one radian → the same, scaled."""
        turns = self.original_max_position_embeddings / (2 * math.pi * per_radian)  # in the original context
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return per_radian / (kept + (1 - kept) / self.factor)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of a Llama, Qwen2 or Qwen3; the defaults are those of SmolLM2-135M-Instruct.

    `head_dim` 0 is what `hidden_size` has for each head. `tied` is whether the output head is the embedding.
    """

    family: Family = "llama"
    vocab_size: int = 49152
    max_position_embeddings: int = 8192
    hidden_size: int = 576
    intermediate_size: int = 1536
    num_hidden_layers: int = 30
    num_attention_heads: int = 9
    num_key_value_heads: int = 3
    head_dim: int = 0
    rms_norm_eps: float = 1e-5
    rope_theta: float = 100000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = True
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        names = (
            "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_attention_heads",
            "num_key_value_heads",
        )  # fmt: skip
        numbers = {"rms_norm_eps": self.rms_norm_eps, "rope_theta": self.rope_theta}
        check_shape(self.num_hidden_layers, {name: getattr(self, name) for name in names}, numbers)
        divides = self.num_attention_heads % self.num_key_value_heads == 0
        if not self.head_dim:
            divides &= self.hidden_size % self.num_attention_heads == 0
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if not divides or self.head_dim < 2 or self.head_dim % 2:
            raise CheckpointError(
                f"config: hidden_size {self.hidden_size}, {self.num_attention_heads} heads and "
                f"{self.num_key_value_heads} key heads do not divide into heads of an even size"
            )
        check_shape(1, {"head_dim": self.head_dim, "all heads": self.head_dim * self.num_attention_heads}, {})

    def to_huggingface(self) -> dict[str, Any]:
        """The config.json with which transformers loads a checkpoint of ours."""
        names = (
            "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "eos_token_id",
        )  # fmt: skip
        same = {name: getattr(self, name) for name in names}
        fixed: dict[str, Any] = {"hidden_act": "silu", "tie_word_embeddings": self.tied}
        if self.family != "qwen2":
            fixed["attention_bias"] = False
        if self.family == "llama":
            fixed["mlp_bias"] = False
        else:
            fixed["use_sliding_window"] = False
        if self.family == "qwen3" or self.head_dim * self.num_attention_heads != self.hidden_size:
            fixed["head_dim"] = self.head_dim
        if self.rope_scaling:
            fixed["rope_scaling"] = {"rope_type": "llama3", **vars(self.rope_scaling)}
        return {"model_type": self.family, "architectures": [_CLASSES[self.family]], **same, **fixed}


class Llama(Decoder):
    """Rotary positions, RMSNorm before each sublayer, an output head of its own or the embedding's."""

    transposed: tuple[str, ...] = ()
    prefix = "model."

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.block_size = config.max_position_embeddings
        self.embed_tokens = unset_embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # No linear layer: adapters and quantisation take those, and leave the head as it is.
        self.lm_head = None if config.tied else nn.Embedding(config.vocab_size, config.hidden_size)

    @property
    def head(self) -> Tensor:
        """The output head, (vocab_size, C)."""
        return (self.lm_head or self.embed_tokens).weight

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding, which is the output head too if `tied`."""
        return self.embed_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, in order."""
        return self.layers

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of every position's angles, each (B, 1, T, D)."""
        return rotations(positions, self.config)

    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T) ids and positions → (B, T, C) states after the final norm."""
        x = self.embed(input_ids)  # (B, T, C)
        rotation = self.rotation(positions)
        for layer in self.layers:
            x = self.run_block(layer, x, rotation, attend)
        return self.norm(x)


def rotations(positions: Tensor, config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """Cosine of every position's angles, and sine with the sign that each place of a pair takes, each (B, 1, T, D).

    As in RoFormer (Su et al., 2021).
    """
    per_radian = unscaled_speeds(config, positions.device)
    if config.rope_scaling:
        per_radian = config.rope_scaling.slow(per_radian)
    return turned(positions, per_radian)


def unscaled_speeds(config: LlamaConfig, device: torch.device | None = None) -> Tensor:
    """(D/2,) positions that turn each pair of a head by one radian, without any scaling."""
    powers = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    return config.rope_theta**powers


def turned(positions: Tensor, per_radian: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of (B, T) positions' angles, where so many positions are a radian."""
    angles = positions[:, None, :, None].float() / per_radian  # (B, 1, T, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + D/2) of (B, H, T, D) by its angle."""
    cos, sin = rotation
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


class Block(nn.Module):
    """Attention, then MLP, each added to what came in."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(SameInput):
    """Grouped-query attention (Ainslie et al., 2023): G query heads share one key and value head."""

    names = ("q_proj", "k_proj", "v_proj")

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.heads = config.num_attention_heads, config.num_key_value_heads
        queries, keys = (count * config.head_dim for count in self.heads)
        bias = config.family == "qwen2"
        self.q_proj = Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = Linear(queries, config.hidden_size, bias=False)
        self.q_norm, self.k_norm = (
            nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.family == "qwen3" else None for _ in range(2)
        )

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        out = attend(self.layer, *self._rotated(x, rotation))
        return self.o_proj(out.transpose(1, 2).flatten(2))  # (B, T, C)

    def _rotated(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (B, H, T, D), rotated keys and values (B, H/G, T, D)."""
        if self.joined and not self.q_norm:
            queries, keys = self.heads
            both, v = self._in_heads(self.joined(x)).split((queries + keys, keys), dim=1)
            q, k = rotate(both, rotation).split(self.heads, dim=1)
            return q, k, v
        q, k, v = map(self._in_heads, self.project(x))
        if self.q_norm and self.k_norm:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)  # on a GPU autocast norms in float32
        return rotate(q, rotation), rotate(k, rotation), v

    def _in_heads(self, x: Tensor) -> Tensor:
        """(B, T, heads x D) → (B, heads, T, D)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(SameInput):
    """SwiGLU (Shazeer, 2020)."""

    names = ("gate_proj", "up_proj")

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x)
        return self.down_proj(F.silu(gate) * up)
