"""Sequences of different lengths in one flat row, and as rows of one width where attention needs them so.

N sequences · W width of a row · T tokens of the flat row, at least all of the sequences · H heads · D head size
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class RaggedRows:
    """Between a flat row of N sequences, one after the other, and N rows of `width` places filled from the left."""

    def __init__(self, lengths: Sequence[int], width: int, device: torch.device) -> None:
        self.count, self.width = len(lengths), width
        counts = torch.tensor(lengths, dtype=torch.long)
        starts = counts.cumsum(0) - counts  # (N,)
        place = torch.arange(width)
        real = place < counts[:, None]  # (N, W)
        # An empty place takes any token; `causal` hides it.
        self._source = torch.where(real, starts[:, None] + place, 0).flatten().to(device)  # (N x W,)
        self._real = real.flatten().nonzero().squeeze(1).to(device)  # (all tokens,)
        self.causal = ((place <= place[:, None]) & real[:, None]).to(device)  # (N, W, W), true where one may look

    def to_rows(self, flat: Tensor) -> Tensor:
        """(H, T, D) → (N, H, W, D)."""
        return flat.index_select(1, self._source).unflatten(1, (self.count, self.width)).transpose(0, 1)

    def to_flat(self, rows: Tensor) -> Tensor:
        """(N, H, W, D) → (H, all tokens, D)."""
        return rows.transpose(0, 1).flatten(1, 2).index_select(1, self._real)
