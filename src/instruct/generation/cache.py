"""The key-value cache of many answers in progress, and attention over it with bits independent of neighbours.

Every prompt starts with the same tokens, whose keys and values are stored once. The rest of a prompt and its answer
have a slot per row, filled from the left. Answers in progress always use the first slots, so that no step copies the
cache.

Attention is written out as matrix products and a softmax instead of torch's fused kernel, because the fused one
groups its sums by batch and length; here a row's bits do not depend on the other rows.

    P prefix tokens · N rows · L new tokens of the longest row · S places in use · H heads · K key heads · G = H/K
    R = G x L queries of a key head · D head size · T all new tokens, one row after the other
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.model.ragged import RaggedRows

TILE = 16  # matrix products have whole tiles of rows and columns: kernels sum a partial tile in another order


def whole_tiles(size: int) -> int:
    """`size` rounded up to whole tiles."""
    return -(-size // TILE) * TILE


class SlotCache:
    """Keys and values: the shared prefix, then up to `capacity` own tokens in each of `slots` rows."""

    def __init__(self, slots: int, capacity: int, device: torch.device) -> None:
        self.slots, self.capacity, self.device = slots, whole_tiles(capacity), device
        self.prefix_keys: dict[int, Tensor] = {}  # layer -> (K, P, D)
        self.prefix_values: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}  # layer -> (slots, K, capacity, D)
        self.values: dict[int, Tensor] = {}
        # Own tokens stored in each slot; a pass has a tile of rows at least, of which those without a slot hold none.
        self.lengths = torch.zeros(max(slots, TILE), dtype=torch.long)

    def allocate(self, layer: int, like: Tensor) -> None:
        """Make room for a layer at its first use; `like` is (.., K, .., D)."""
        if layer not in self.keys:
            shape = (self.slots, like.shape[1], self.capacity, like.shape[3])
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)

    def emptied(self, slots: int) -> "SlotCache":
        """Another cache with the same prefix and layers, and room for a tile of tokens in each of its slots."""
        other = SlotCache(slots, TILE, self.device)
        other.prefix_keys, other.prefix_values = self.prefix_keys, self.prefix_values
        for layer, like in self.keys.items():
            other.allocate(layer, like)
        return other

    def move(self, source: int, target: int) -> None:
        """Put the row in slot `source` into slot `target`."""
        length = int(self.lengths[source])
        for store in (self.keys, self.values):
            for tensor in store.values():
                tensor[target, :, :length] = tensor[source, :, :length]
        self.lengths[target] = self.lengths[source]

    def resize(self, slots: int, capacity: int, rows: int) -> None:
        """Change the number of slots and their tokens; keeps the first `rows`, which must fit."""
        self.slots, self.capacity = slots, whole_tiles(capacity)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                new = old.new_zeros(slots, old.shape[1], self.capacity, old.shape[3])
                kept = min(old.shape[2], self.capacity)
                new[:rows, :, :kept] = old[:rows, :, :kept]
                store[layer] = new
        lengths = torch.zeros(max(slots, TILE), dtype=torch.long)
        lengths[:rows] = self.lengths[:rows]
        self.lengths = lengths


class PrefixAttend:
    """The forward pass over the shared prefix alone: (1, H, P, D), stored as it passes."""

    def __init__(self, cache: SlotCache, length: int) -> None:
        self._cache, self._length = cache, length
        places = torch.arange(length, device=cache.device)
        self._mask = (places <= places[:, None])[None]  # (1, P, P)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend causally; tokens past the prefix only pad the pass and get zeros."""
        real = slice(0, self._length)
        self._cache.prefix_keys[layer] = k[0, :, real].clone()
        self._cache.prefix_values[layer] = v[0, :, real].clone()
        out = torch.zeros_like(q)
        out[:, :, real] = attend_in_parts(q[:, :, real], None, OwnRows(k[:, :, real], v[:, :, real]), self._mask)
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
        prefix = _prefix_of(cache, layer)
        out = own.to_flat(attend_in_parts(own.to_rows(q[0]), prefix, OwnRows(rows_k, rows_v), own.causal))
        flat = torch.zeros_like(q)
        flat[0, :, : out.shape[1]] = out
        return flat


class DecodeAttend:
    """The forward pass over the newest token of the first `rows` slots: (rows, H, 1, D)."""

    def __init__(self, cache: SlotCache, rows: int) -> None:
        self._cache, self._rows = cache, rows
        self._places = cache.lengths[:rows].to(cache.device)
        self._all = torch.arange(min(rows, cache.slots), device=cache.device)
        self._used = whole_tiles(int(self._places.max()) + 1)
        self._mask = (torch.arange(self._used, device=cache.device) <= self._places[:, None])[:, None]  # (N, 1, S)
        self._bags: tuple[Tensor, Tensor] | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new keys and values, attend to all tokens of each row."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        stored = len(self._all)
        keys[self._all, :, self._places[:stored]] = k[:stored, :, 0]
        values[self._all, :, self._places[:stored]] = v[:stored, :, 0]
        if stored < self._rows:  # rows that only pad the pass read another row's slot
            somebody = torch.arange(self._rows, device=keys.device) % stored
            keys, values = keys[somebody], values[somebody]
        own: Own
        if q.device.type == "cpu" and values.dtype is torch.float32:
            if self._bags is None:
                self._bags = slot_bags(values, self._rows, self._used, groups=q.shape[1] // k.shape[1])
            own = OwnSlots(keys[: self._rows, :, : self._used], values, *self._bags)
        else:
            own = OwnRows(keys[: self._rows, :, : self._used], values[: self._rows, :, : self._used])
        return attend_in_parts(q, _prefix_of(self._cache, layer), own, self._mask)


def _prefix_of(cache: SlotCache, layer: int) -> tuple[Tensor, Tensor] | None:
    return (cache.prefix_keys[layer], cache.prefix_values[layer]) if layer in cache.prefix_keys else None


class Own(Protocol):
    """What N rows hold of their own, beside the prefix."""

    keys: Tensor  # (N, K, S, D)

    def scores(self, queries: Tensor) -> Tensor:
        """(N, K, R, D) → (N, K, R, S)."""

    def sums(self, weights: Tensor) -> Tensor:
        """(N, K, R, S) weights of places → (N, K, R, D)."""


class OwnRows:
    """Keys and values (N, K, S, D), multiplied directly."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self._values = keys, values

    def scores(self, queries: Tensor) -> Tensor:
        return queries @ self.keys.transpose(-1, -2)

    def sums(self, weights: Tensor) -> Tensor:
        return weights @ self._values


class OwnSlots:
    """Many keys and few queries on a CPU, where reading is all the work: kernels that wait for nothing else.

    Keys times queries is twice as fast as queries times keys. Values are summed as an embedding's rows are: a bag
    for each query, whose rows are added one after the other, so that no other bag changes a bit of the sum.
    """

    def __init__(self, keys: Tensor, slots: Tensor, places: Tensor, starts: Tensor) -> None:
        """`keys` (N, K, S, D) · `slots` (slots, K, capacity, D) all values · `places`, `starts` from `slot_bags`."""
        self.keys, self._slots, self._places, self._starts = keys, slots, places, starts

    def scores(self, queries: Tensor) -> Tensor:
        return (self.keys @ queries.contiguous().transpose(-1, -2)).transpose(-1, -2)

    def sums(self, weights: Tensor) -> Tensor:
        values = self._slots.flatten(0, 2)
        flat = weights.flatten().to(values.dtype)
        summed = F.embedding_bag(self._places, values, self._starts, mode="sum", per_sample_weights=flat)
        return summed.view(*weights.shape[:3], -1)


def slot_bags(slots: Tensor, rows: int, used: int, *, groups: int) -> tuple[Tensor, Tensor]:
    """Where in (slots, K, capacity, D), flat but for D, each bag's `used` values are, and where each bag begins."""
    _, key_heads, capacity, _ = slots.shape
    begins = torch.arange(rows * key_heads).repeat_interleave(groups) * capacity
    return (begins[:, None] + torch.arange(used)).flatten(), torch.arange(len(begins)) * used


def attend_in_parts(q: Tensor, prefix: tuple[Tensor, Tensor] | None, own: Own, mask: Tensor) -> Tensor:
    """Attention of (N, H, L, D) queries to a prefix that all rows share, (K, P, D), and to what is each row's own.

    `mask` is (N, L, S), true where a place may be seen; the prefix always may. Gives (N, H, L, D).
    """
    rows, _, new, size = q.shape
    grouped = q.unflatten(1, (own.keys.shape[1], -1)).flatten(2, 3)  # (N, K, R, D)
    scores = own.scores(grouped).unflatten(2, (-1, new))  # (N, K, G, L, S)
    scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    if prefix is None:
        weights = (scores * size**-0.5).softmax(-1)
        return own.sums(weights.flatten(2, 3)).unflatten(2, (-1, new)).flatten(1, 2)
    folded = grouped.transpose(0, 1).flatten(1, 2)  # (K, N x R, D): one product a head for all rows
    shared = (folded @ prefix[0].transpose(-1, -2)).unflatten(1, (rows, -1, new)).transpose(0, 1)  # (N, K, G, L, P)
    weights = (torch.cat((shared, scores), dim=-1) * size**-0.5).softmax(-1)
    of_prefix, of_own = weights.split((shared.shape[-1], scores.shape[-1]), dim=-1)
    from_prefix = (of_prefix.transpose(0, 1).flatten(1, 3) @ prefix[1]).unflatten(1, (rows, -1)).transpose(0, 1)
    out = own.sums(of_own.flatten(2, 3)) + from_prefix  # (N, K, R, D)
    return out.unflatten(2, (-1, new)).flatten(1, 2)
