"""Several sequences in one flat row, with what they all begin with computed once.

The row is the shared prefix, then each record's own tokens. A token sees the prefix and, of its own record, what
stands before it. Everything but attention runs over the flat row without padding; attention gathers each record
into a row of its own, which costs little since own parts are short.

    P prefix tokens · N records · L own tokens of the longest · T = P + all own tokens · H heads · D head size
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.model.decoder import repeat_keys


class PackedAttend:
    """Attention for a flat row of `prefix` shared tokens and then `lengths[n]` own tokens of each record."""

    def __init__(self, prefix: int, lengths: Sequence[int], device: torch.device) -> None:
        self.prefix = prefix
        counts = torch.tensor(lengths, dtype=torch.long)
        longest = max(lengths, default=0)
        starts = counts.cumsum(0) - counts  # (N,)
        place = torch.arange(longest)
        real = place < counts[:, None]  # (N, L)
        # Where each place of the gathered rows comes from; an empty place takes any token and is masked.
        self._gather = torch.where(real, starts[:, None] + place, 0).flatten().to(device)  # (N x L,)
        self._scatter = real.flatten().nonzero().squeeze(1).to(device)  # (T - P,)
        own = (place <= place[:, None]) & real[:, None]  # (N, L, L)
        shared = torch.ones(len(lengths), longest, prefix, dtype=torch.bool)
        self._mask = torch.cat((shared, own), dim=2)[:, None].to(device)  # (N, 1, L, P + L)
        self._records, self._longest = len(lengths), longest

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(1, H, T, D) queries, keys and values → (1, H, T, D)."""
        k, v = repeat_keys(q, k), repeat_keys(q, v)
        head = slice(0, self.prefix)
        shared = F.scaled_dot_product_attention(q[:, :, head], k[:, :, head], v[:, :, head], is_causal=True)
        if not self._longest:
            return shared
        keys, values = (torch.cat((self._expand(x), self._rows(x)), dim=2) for x in (k, v))  # (N, H, P + L, D)
        out = F.scaled_dot_product_attention(self._rows(q), keys, values, attn_mask=self._mask)  # (N, H, L, D)
        own = out.transpose(0, 1).flatten(1, 2).index_select(1, self._scatter)  # (H, T - P, D)
        return torch.cat((shared, own[None]), dim=2)

    def _rows(self, x: Tensor) -> Tensor:
        own = x[0, :, self.prefix :].index_select(1, self._gather)  # (H, N x L, D)
        return own.unflatten(1, (self._records, self._longest)).transpose(0, 1)  # (N, H, L, D)

    def _expand(self, x: Tensor) -> Tensor:
        return x[:, :, : self.prefix].expand(self._records, -1, -1, -1)


def shared_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all sequences begin with."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
