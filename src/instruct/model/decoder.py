"""The part that all model families share: a decoder whose caller decides *how tokens attend to each other*.

A model turns token ids and positions into hidden states. Wherever it needs attention it calls `attend`, one of
the small objects below. So one forward pass serves whole sequences, padded batches and cached decoding, and no
model knows about batches or caches.

    B batch · T new tokens · S all tokens seen · H heads · G heads that share a key · D head size · C width
"""

from abc import abstractmethod
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from instruct.model.linear import linear


class Attend(Protocol):
    """Attention of one layer: (B, H, T, D) queries, (B, H/G, T, D) keys and values → (B, H, T, D)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class Decoder(nn.Module):
    """A decoder-only transformer; its output head is its embedding matrix (tied) or a separate one."""

    block_size: int
    recompute = False  # keep no activations of a block, compute them again in the backward pass
    dropout = 0.0  # of the adapters, if it has any
    lookup_in_place = False  # the lookup's gradient goes straight into the embedding's, which the head must have made

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The layers, in order."""

    def run_block(self, block: nn.Module, *inputs: object) -> Tensor:
        """One layer; with `recompute` its activations are not kept (Chen et al., 2016)."""
        if self.recompute and self.training:
            draws = bool(self.dropout)  # keeping the random state would wait for the device
            return torch.utils.checkpoint.checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=draws)
        return block(*inputs)

    @property
    @abstractmethod
    def embedding(self) -> nn.Embedding:
        """The token embedding, (vocab_size, C)."""

    @property
    def head(self) -> Tensor:
        """The output head, (vocab_size, C): the embedding's weight, unless a family says otherwise."""
        return self.embedding.weight

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T) ids and positions → (B, T, C) states after the final norm."""

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) ids → (B, T, C) rows of the embedding.

        On a CPU the gradient of a lookup is sparse and is added into a tied output head's, which is as large as the
        embedding: a dense one would be another matrix of that size, filled with zeros, in every step. On a GPU it
        is dense, since adding a sparse one would wait for the device to count its rows.
        """
        weight = self.embedding.weight
        sparse = input_ids.device.type == "cpu" and self.head is weight
        if not (self.lookup_in_place and sparse and weight.requires_grad and torch.is_grad_enabled()):
            return F.embedding(input_ids, weight, sparse=sparse)
        rows = F.embedding(input_ids, weight.detach()).requires_grad_()
        rows.register_hook(partial(add_rows, weight, input_ids))
        return rows

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) states → (..., vocab_size); give it only the states whose prediction is wanted."""
        return linear(hidden, self.head)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) whole sequences → (B, T, vocab_size) logits."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.logits(self.hidden_states(input_ids, positions, attend_causally))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device


def unset_embedding(tokens: int, width: int) -> nn.Embedding:
    """An embedding without initial weights: torch's own initialisation takes two seconds of imports."""
    return nn.Embedding.from_pretrained(torch.empty(tokens, width), freeze=False)


def add_rows(weight: Tensor, ids: Tensor, gradient: Tensor) -> None:
    """Add the gradient of looked up rows to that of the embedding, in place.

    autograd would first copy the head's gradient, which is as large as the embedding, and add to the copy.
    """
    assert weight.grad is not None, "the head comes first in a backward pass"
    rows = gradient.reshape(-1, weight.shape[1])
    rows = torch.sparse_coo_tensor(ids.reshape(1, -1), rows, weight.shape, check_invariants=False)
    weight.grad.add_(rows)


def attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token sees itself and the tokens before it: right-padded training batches and whole sequences."""
    k, v = repeat_keys(q, k), repeat_keys(q, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def repeat_keys(q: Tensor, k: Tensor) -> Tensor:
    """Keys (or values) copied for each of the query heads that share them."""
    groups = q.shape[1] // k.shape[1]
    return k if groups == 1 else k.repeat_interleave(groups, dim=1)
