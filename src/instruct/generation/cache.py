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

    @property
    def prefix_length(self) -> int:
        """Tokens of the shared prefix."""
        return next((keys.shape[1] for keys in self.prefix_keys.values()), 0)

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
        self._mask = mask_of((places <= places[:, None])[None], 0)

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
        self._mask = mask_of(self._own.causal, cache.prefix_length)
        cache.lengths[self._slots] = torch.tensor(lengths)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store keys and values, attend to the prefix and each row's own tokens."""
        cache, own = self._cache, self._own
        cache.allocate(layer, k)
        rows_k, rows_v = own.to_rows(k[0]), own.to_rows(v[0])
        cache.keys[layer][self._slots, :, : own.width] = rows_k
        cache.values[layer][self._slots, :, : own.width] = rows_v
        prefix = _prefix_of(cache, layer)
        out = own.to_flat(attend_in_parts(own.to_rows(q[0]), prefix, OwnRows(rows_k, rows_v), self._mask))
        flat = torch.zeros_like(q)
        flat[0, :, : out.shape[1]] = out
        return flat


class DecodeAttend:
    """The forward pass over one token a row: (N, H, 1, D).

    Row n has the token at place `places[n]` of slot `slots[n]`; a slot may have several rows, each of which sees the
    tokens before it. Rows past these, up to `rows`, only pad the pass.
    """

    def __init__(self, cache: SlotCache, slots: Sequence[int], places: Sequence[int], rows: int) -> None:
        self._cache, self._stored = cache, len(slots)
        padding = range(len(slots), rows)
        of_rows = [*slots, *(row % cache.slots for row in padding)]
        self._in_order = of_rows == list(range(rows))  # then the slots are the rows, without a copy
        self._slots = torch.tensor(of_rows, device=cache.device)
        self.places = torch.tensor([*places, *(0 for _ in padding)], device=cache.device)
        self._used = whole_tiles(max(places) + 1)
        seen = torch.arange(self._used, device=cache.device) <= self.places[:, None]
        self._mask = mask_of(seen[:, None], cache.prefix_length)
        self._into: Tensor | None = None
        self._bags: tuple[Tensor, Tensor] | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new keys and values, attend to all tokens of each row up to its own."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        if self._into is None:
            begins = begins_of_heads(values, self._slots[: self._stored])
            self._into = (begins + self.places[: self._stored, None]).flatten()
        for stored, new in ((keys, k), (values, v)):
            stored.flatten(0, 2).index_copy_(0, self._into, new[: self._stored].flatten(0, 2))
        own: Own
        if q.device.type == "cpu" and values.dtype is torch.float32:
            if self._bags is None:
                self._bags = slot_bags(values, self._slots, self._used, groups=q.shape[1] // k.shape[1])
            own = OwnSlots(self._of_rows(keys), values, *self._bags)
        else:
            own = OwnRows(self._of_rows(keys), self._of_rows(values))
        return attend_in_parts(q, _prefix_of(self._cache, layer), own, self._mask)

    def _of_rows(self, stored: Tensor) -> Tensor:
        """(slots, K, capacity, D) → (N, K, S, D)."""
        used = stored[:, :, : self._used]
        return used[: len(self._slots)] if self._in_order else used.index_select(0, self._slots)


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


def begins_of_heads(values: Tensor, slots: Tensor) -> Tensor:
    """Where in (slots, K, capacity, D) `values`, flat but for D, the heads of these (N,) slots begin: (N, K)."""
    _, key_heads, capacity, _ = values.shape
    return (slots[:, None] * key_heads + torch.arange(key_heads, device=slots.device)) * capacity


def slot_bags(values: Tensor, slots: Tensor, used: int, *, groups: int) -> tuple[Tensor, Tensor]:
    """Where in (slots, K, capacity, D) `values`, flat but for D, each bag's `used` ones are, and where each bag begins.

    `slots` (N,) are those of the rows.
    """
    begins = begins_of_heads(values, slots).flatten().repeat_interleave(groups)
    return (begins[:, None] + torch.arange(used)).flatten(), torch.arange(len(begins)) * used


def attend_in_parts(q: Tensor, prefix: tuple[Tensor, Tensor] | None, own: Own, mask: Tensor) -> Tensor:
    """Attention of (N, H, L, D) queries to a prefix that all rows share, (K, P, D), and to what is each row's own.

    `mask` from `mask_of` is added to the (N, K, G, L, P + S) scores. Gives (N, H, L, D).
    """
    rows, heads, new, size = q.shape
    grouped = q.reshape(rows, own.keys.shape[1], -1, size)  # (N, K, R, D)
    scores = own.scores(grouped)
    if prefix is None:
        return own.sums(_weights(scores, mask, size)).view(rows, heads, new, size)
    folded = grouped.transpose(0, 1).flatten(1, 2)  # (K, N x R, D): one product a head for all rows
    shared = (folded @ prefix[0].transpose(1, 2)).unflatten(1, (rows, -1)).transpose(0, 1)  # (N, K, R, P)
    weights = _weights(torch.cat((shared, scores), dim=-1), mask, size)
    of_prefix, of_own = weights.split((shared.shape[-1], scores.shape[-1]), dim=-1)
    from_prefix = (of_prefix.transpose(0, 1).flatten(1, 2) @ prefix[1]).unflatten(1, (rows, -1)).transpose(0, 1)
    return (own.sums(of_own) + from_prefix).view(rows, heads, new, size)


def _weights(scores: Tensor, mask: Tensor, size: int) -> Tensor:
    """Softmax of scaled and masked (N, K, R, P + S) scores."""
    by_place = scores.unflatten(2, (-1, mask.shape[-2]))  # (N, K, G, L, P + S)
    return torch.add(mask, by_place, alpha=size**-0.5).softmax(-1).flatten(2, 3)


def mask_of(seen: Tensor, prefix: int) -> Tensor:
    """(N, L, S), true where a place may be seen → (N, 1, 1, L, P + S), -inf where not; the prefix always may."""
    mask = torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, -torch.inf)
    return F.pad(mask, (prefix, 0))[:, None, None]
