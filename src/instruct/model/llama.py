"""The Llama family as far as SmolLM2 needs it: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Names are those of Hugging Face checkpoints.

B batch · T tokens · C hidden_size · H query heads · G query heads a key head · D head size
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct.core.errors import CheckpointError
from instruct.model.decoder import Attend, Decoder
from instruct.model.limits import check_shape
from instruct.model.linear import Linear


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of a Llama; the defaults are those of SmolLM2-135M-Instruct."""

    vocab_size: int = 49152
    max_position_embeddings: int = 8192
    hidden_size: int = 576
    intermediate_size: int = 1536
    num_hidden_layers: int = 30
    num_attention_heads: int = 9
    num_key_value_heads: int = 3
    rms_norm_eps: float = 1e-5
    rope_theta: float = 100000.0
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        names = (
            "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_attention_heads",
            "num_key_value_heads",
        )  # fmt: skip
        numbers = {"rms_norm_eps": self.rms_norm_eps, "rope_theta": self.rope_theta}
        check_shape(self.num_hidden_layers, {name: getattr(self, name) for name in names}, numbers)
        if self.hidden_size % (2 * self.num_attention_heads) or self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"config: hidden_size {self.hidden_size}, {self.num_attention_heads} heads and "
                f"{self.num_key_value_heads} key heads do not divide"
            )

    @property
    def head_dim(self) -> int:
        """D, the size of one head."""
        return self.hidden_size // self.num_attention_heads

    def to_huggingface(self) -> dict[str, Any]:
        """The config.json with which transformers loads a checkpoint of ours."""
        names = (
            "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "eos_token_id",
        )  # fmt: skip
        same = {name: getattr(self, name) for name in names}
        fixed = {"hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}
        return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **same, **fixed}

    def variants(self) -> dict[str, tuple[Any, ...]]:
        """What a config.json may say beside the shape, ours last; None where transformers takes absence for ours."""
        return {
            "tie_word_embeddings": (True,),
            "hidden_act": (None, "silu"),
            "attention_bias": (None, False),
            "mlp_bias": (None, False),
            "head_dim": (None, self.head_dim),
            "rope_scaling": (None,),
            "rope_type": (None, "default"),
        }


class Llama(Decoder):
    """Rotary positions, RMSNorm before each sublayer, no biases, output head tied to the embedding."""

    transposed: tuple[str, ...] = ()
    prefix = "model."

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.block_size = config.max_position_embeddings
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding, which is the output head too."""
        return self.embed_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, in order."""
        return self.layers

    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T) ids and positions → (B, T, C) states after the final norm."""
        x = self.embed(input_ids)  # (B, T, C)
        rotation = rotations(positions, self.config)
        for layer in self.layers:
            x = self.run_block(layer, x, rotation, attend)
        return self.norm(x)


def rotations(positions: Tensor, config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each (B, 1, T, D) (RoFormer, Su et al., 2021)."""
    powers = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32) / config.head_dim
    angles = positions[:, None, :, None].float() / config.rope_theta**powers  # (B, 1, T, D/2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + D/2) of (B, H, T, D) by its angle."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


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


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al., 2023): G query heads share one key and value head."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = Linear(config.hidden_size, keys, bias=False)
        self.v_proj = Linear(config.hidden_size, keys, bias=False)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H or H/G, T, D)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attend(self.layer, rotate(q, rotation), rotate(k, rotation), v)
        return self.o_proj(out.transpose(1, 2).flatten(2))  # (B, T, C)


class MLP(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
