"""GPT-2 (Radford et al., 2019) in plain torch, with the names of its published checkpoints.

B batch · T tokens · C n_embd · H heads · D head size
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from instruct.core.errors import CheckpointError
from instruct.model.decoder import Attend, Decoder, unset_embedding
from instruct.model.limits import check_shape
from instruct.model.linear import Linear


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The shape of a GPT-2; the defaults are those of the 124M model."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    layer_norm_epsilon: float = 1e-5
    eos_token_id: int = 50256

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("vocab_size", "n_positions", "n_embd", "n_head")}
        check_shape(self.n_layer, sizes, {"layer_norm_epsilon": self.layer_norm_epsilon})
        if self.n_embd % self.n_head:
            raise CheckpointError(f"config: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    def to_huggingface(self) -> dict[str, Any]:
        """The config.json with which transformers loads a checkpoint of ours."""
        names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon", "eos_token_id")
        same = {name: getattr(self, name) for name in names}
        fixed = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "activation_function": "gelu_new"}
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **same, **fixed}


class GPT2(Decoder):
    """Learned positions, layer norm before each sublayer, tanh-GELU, output head tied to the embedding."""

    # Published weights of these modules are stored (in, out), the transpose of nn.Linear.
    transposed = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    prefix = "transformer."

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.block_size = config.n_positions
        self.wte = unset_embedding(config.vocab_size, config.n_embd)
        self.wpe = unset_embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding, which is the output head too."""
        return self.wte

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, in order."""
        return self.h

    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T) ids and positions → (B, T, C) states after the final norm."""
        x = self.embed(input_ids) + self.wpe(positions)  # (B, T, C)
        for block in self.h:
            x = self.run_block(block, x, attend)
        return self.ln_f(x)


class Block(nn.Module):
    """Attention, then MLP, each added to what came in."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.attn(self.ln_1(x), attend)
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    """Multi-head attention with one fused projection for queries, keys and values."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = self.c_attn(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        return self.c_proj(attend(self.layer, q, k, v).transpose(1, 2).flatten(2))  # (B, T, C)


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
