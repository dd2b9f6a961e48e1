"""The key-value cache of many answers in progress, and attention over it whose bits do not depend on neighbours.

Every prompt begins with the same tokens; their keys and values are stored once. What follows them, the own part of
a prompt and its answer, has a slot a row, filled from the left. Answers in progress always hold the first slots,
so that no step copies the cache.

Attention is written out as matrix products and a softmax instead of torch's fused kernel, because the fused one
groups its sums by batch and length; here a row comes out the same to the bit whatever stands beside it.

    P prefix tokens · N rows · L new tokens of the longest row · S places in use · H heads · K key heads · G = H/K
    D head size · T all new tokens, one row after the other
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from instruct.model.ragged import RaggedRows

TILE = 16  # rows and columns of matrix products are whole tiles: for what sticks out, kernels sum in another order


def whole_tiles(size: int) -> int:
    """`size` rounded up to whole tiles."""
    return -(-size // TILE) * TILE


class SlotCache:
    """Keys and values: the shared prefix, then up to `capacity` own tokens in each of `slots` rows."""

    def __init__(self, slots: int, capacity: int, device: torch.device) -> None:
        self.slots, self.capacity, self.device = max(slots, TILE), whole_tiles(capacity), device
        self.prefix_keys: dict[int, Tensor] = {}  # layer -> (K, P, D)
        self.prefix_values: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}  # layer -> (slots, K, capacity, D)
        self.values: dict[int, Tensor] = {}
        self.lengths = torch.zeros(self.slots, dtype=torch.long)  # own tokens stored in each slot

    def allocate(self, layer: int, like: Tensor) -> None:
        """Make room for a layer at its first use; `like` is (.., K, .., D)."""
        if layer not in self.keys:
            shape = (self.slots, like.shape[1], self.capacity, like.shape[3])
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)

    def move(self, source: int, target: int) -> None:
        """Put the row in slot `source` into slot `target`."""
        length = int(self.lengths[source])
        for store in (self.keys, self.values):
            for tensor in store.values():
                tensor[target, :, :length] = tensor[source, :, :length]
        self.lengths[target] = self.lengths[source]


class PrefixAttend:
    """The forward pass over the shared prefix alone: (1, H, P, D), stored as it passes."""

    def __init__(self, cache: SlotCache, length: int) -> None:
        self._cache, self._length = cache, length
        places = torch.arange(length, device=cache.device)
        self._mask = (places <= places[:, None])[None]  # (1, P, P)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend causally; tokens past the prefix only fill up the pass and are given zeros."""
        real = slice(0, self._length)
        self._cache.prefix_keys[layer] = k[0, :, real].clone()
        self._cache.prefix_values[layer] = v[0, :, real].clone()
        out = torch.zeros_like(q)
        out[:, :, real] = attend_in_parts(q[:, :, real], None, k[:, :, real], v[:, :, real], self._mask)
        return out


class PrefillAttend:
    """The forward pass over the own parts of some prompts, flat and unpadded: (1, H, T, D).

    Row n of `lengths` goes into slot `first` + n.
    """

    def __init__(self, cache: SlotCache, first: int, lengths: Sequence[int]) -> None:
        self._cache, self._slots = cache, slice(first, first + len(lengths))
        self._own = RaggedRows(lengths, whole_tiles(max(lengths)), cache.device)
        cache.lengths[self._slots] = torch.tensor(lengths)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store keys and values, attend to the prefix and each row's own tokens."""
        cache, own = self._cache, self._own
        cache.allocate(layer, k)
        rows_k, rows_v = own.to_rows(k[0]), own.to_rows(v[0])
        cache.keys[layer][self._slots, :, : own.width] = rows_k
        cache.values[layer][self._slots, :, : own.width] = rows_v
        out = own.to_flat(attend_in_parts(own.to_rows(q[0]), _prefix_of(cache, layer), rows_k, rows_v, own.causal))
        flat = torch.zeros_like(q)
        flat[0, :, : out.shape[1]] = out
        return flat


class DecodeAttend:
    """The forward pass over the newest token of the first `rows` slots: (rows, H, 1, D)."""

    def __init__(self, cache: SlotCache, rows: int) -> None:
        self._cache, self._rows = cache, rows
        self._places = cache.lengths[:rows].to(cache.device)
        self._all = torch.arange(rows, device=cache.device)
        self._used = whole_tiles(int(self._places.max()) + 1)
        self._mask = (torch.arange(self._used, device=cache.device) <= self._places[:, None])[:, None]  # (N, 1, S)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new keys and values, attend to all that each row holds."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._all, :, self._places] = k[:, :, 0]
        values[self._all, :, self._places] = v[:, :, 0]
        used = slice(0, self._used)
        prefix = _prefix_of(self._cache, layer)
        return attend_in_parts(q, prefix, keys[: self._rows, :, used], values[: self._rows, :, used], self._mask)


def _prefix_of(cache: SlotCache, layer: int) -> tuple[Tensor, Tensor] | None:
    return (cache.prefix_keys[layer], cache.prefix_values[layer]) if layer in cache.prefix_keys else None


def attend_in_parts(
    q: Tensor, prefix: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, mask: Tensor
) -> Tensor:
    """Attention of (N, H, L, D) queries to a prefix that all rows share, (K, P, D), and to (N, K, S, D) of their own.

    `mask` is (N, L, S), true where a place may be seen; the prefix always may. Gives (N, H, L, D).
    """
    rows, _, new, size = q.shape
    key_heads = keys.shape[1]
    grouped = q.unflatten(1, (key_heads, -1)).flatten(2, 3)  # (N, K, G x L, D)
    scores = (grouped @ keys.transpose(-1, -2)).unflatten(2, (-1, new))  # (N, K, G, L, S)
    scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    if prefix is None:
        weights = (scores * size**-0.5).softmax(-1)
        return (weights.flatten(2, 3) @ values).unflatten(2, (-1, new)).flatten(1, 2)
    folded = grouped.transpose(0, 1).flatten(1, 2)  # (K, N x G x L, D): one product a head for all rows
    shared = (folded @ prefix[0].transpose(-1, -2)).unflatten(1, (rows, -1, new)).transpose(0, 1)  # (N, K, G, L, P)
    weights = (torch.cat((shared, scores), dim=-1) * size**-0.5).softmax(-1)
    of_prefix, of_own = weights.split((shared.shape[-1], scores.shape[-1]), dim=-1)
    own = of_own.flatten(2, 3) @ values  # (N, K, G x L, D)
    out = own + (of_prefix.transpose(0, 1).flatten(1, 3) @ prefix[1]).unflatten(1, (rows, -1)).transpose(0, 1)
    return out.unflatten(2, (-1, new)).flatten(1, 2)
