"""The key-value cache of many answers in progress, and attention over it with bits independent of neighbours.

Every prompt starts with the same tokens, whose keys and values are stored once. The rest of a prompt and its answer
have a slot per row, filled from the left. Answers in progress always use the first slots, so that no step copies the
cache.

Attention is written out as products, a softmax and sums instead of torch's fused kernel, because the fused one groups
its sums by batch and length; here a row's bits do not depend on the other rows.

    P prefix tokens · N rows · L new tokens of the longest row · S places in use · H heads · K key heads · G = H/K
    R = G x L queries of a key head · D head size · T all new tokens, one row after the other
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
        self.values: dict[int, Tensor] = {}  # layer -> (K x P + slots x K x capacity, D): the prefix's, then the slots'
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
            self.keys[layer] = like.new_zeros(shape)
            self._put_values(layer, like.new_zeros(shape))

    def values_of_slots(self, layer: int) -> Tensor:
        """(slots, K, capacity, D): a view of the values after the prefix."""
        keys = self.keys[layer]
        return self.values[layer][-keys.shape[:3].numel() :].view_as(keys)

    def _put_values(self, layer: int, of_slots: Tensor) -> None:
        flat = of_slots.flatten(0, 2)
        prefix = self.prefix_values.get(layer)
        self.values[layer] = flat if prefix is None else torch.cat((prefix.flatten(0, 1), flat))

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
        for layer, keys in self.keys.items():
            for stored in (keys, self.values_of_slots(layer)):
                stored[target, :, :length] = stored[source, :, :length]
        self.lengths[target] = self.lengths[source]

    def resize(self, slots: int, capacity: int, rows: int) -> None:
        """Change the number of slots and their tokens; keeps the first `rows`, which must fit."""
        self.slots, self.capacity = slots, whole_tiles(capacity)
        for layer in self.keys:
            keys, values = (self._resized(old, rows) for old in (self.keys[layer], self.values_of_slots(layer)))
            self.keys[layer] = keys
            self._put_values(layer, values)
        lengths = torch.zeros(max(slots, TILE), dtype=torch.long)
        lengths[:rows] = self.lengths[:rows]
        self.lengths = lengths

    def _resized(self, old: Tensor, rows: int) -> Tensor:
        new = old.new_zeros(self.slots, old.shape[1], self.capacity, old.shape[3])
        kept = min(old.shape[2], self.capacity)
        new[:rows, :, :kept] = old[:rows, :, :kept]
        return new


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
        out[:, :, real] = attend_in_parts(q[:, :, real], None, k[:, :, real], v[:, :, real], self._mask)
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
        cache.values_of_slots(layer)[self._slots, :, : own.width] = rows_v
        prefix = _prefix_of(cache, layer)
        out = own.to_flat(attend_in_parts(own.to_rows(q[0]), prefix, rows_k, rows_v, self._mask))
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
        self._into: tuple[Tensor, Tensor] | None = None  # where new keys and new values go
        self._reads: Reads | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new keys and values, attend to all tokens of each row up to its own."""
        cache, prefix = self._cache, _prefix_of(self._cache, layer)
        keys, values = cache.keys[layer], cache.values[layer]
        if self._into is None:
            into = (begins_of_heads(keys, self._slots) + self.places[:, None])[: self._stored].flatten()
            self._into = into, into + (len(values) - keys.shape[:3].numel())
        for stored, into, new in ((keys.flatten(0, 2), self._into[0], k), (values, self._into[1], v)):
            stored.index_copy_(0, into, new[: self._stored].flatten(0, 2))
        if q.device.type != "cpu" or values.dtype is not torch.float32:
            own = self._of_rows(keys), self._of_rows(cache.values_of_slots(layer))
            return attend_in_parts(q, prefix, *own, self._mask)
        if self._reads is None:
            self._reads = reads_of(keys, self._slots, self._mask, groups=q.shape[1] // k.shape[1], used=self._used)
        return attend_to_slots(q, prefix and prefix[0], self._of_rows(keys), values, self._reads)

    def _of_rows(self, stored: Tensor) -> Tensor:
        """(slots, K, capacity, D) → (N, K, S, D)."""
        used = stored[:, :, : self._used]
        return used[: len(self._slots)] if self._in_order else used.index_select(0, self._slots)


def _prefix_of(cache: SlotCache, layer: int) -> tuple[Tensor, Tensor] | None:
    return (cache.prefix_keys[layer], cache.prefix_values[layer]) if layer in cache.prefix_keys else None


@dataclass(frozen=True)
class Reads:
    """What the rows of a step see of their own, and where in a cache's `values` the values of each query are."""

    mask: Tensor  # (N x K, S, G), -inf where a place is not seen
    places: Tensor  # (N x H x (P + S),) rows of `values`: of each query the prefix's, then its slot's
    starts: Tensor  # (N x H,) where those of each query begin


def begins_of_heads(keys: Tensor, slots: Tensor) -> Tensor:
    """Where in (slots, K, capacity, D) `keys`, flat but for D, the heads of these (N,) slots begin: (N, K)."""
    _, key_heads, capacity, _ = keys.shape
    return (slots[:, None] * key_heads + torch.arange(key_heads, device=slots.device)) * capacity


def reads_of(keys: Tensor, slots: Tensor, mask: Tensor, *, groups: int, used: int) -> Reads:
    """What rows in (N,) slots of (slots, K, capacity, D) `keys` read of `used` places; `mask` is one of `mask_of`."""
    rows, key_heads, prefix = len(slots), keys.shape[1], mask.shape[-1] - used
    shape = (rows, key_heads, groups)
    of_prefix = torch.arange(key_heads * prefix).view(key_heads, 1, prefix).expand(*shape, prefix)
    begins = key_heads * prefix + begins_of_heads(keys, slots)
    of_own = (begins[:, :, None, None] + torch.arange(used)).expand(*shape, used)
    return Reads(
        mask=mask.view(rows, 1, -1, 1)[:, :, prefix:].expand(rows, key_heads, used, groups).flatten(0, 1).contiguous(),
        places=torch.cat((of_prefix, of_own), dim=-1).flatten(),
        starts=torch.arange(rows * key_heads * groups) * (prefix + used),
    )


def attend_to_slots(q: Tensor, prefix: Tensor | None, keys: Tensor, values: Tensor, reads: Reads) -> Tensor:
    """Attention of (N, H, 1, D) queries on a CPU, where reading many keys for few queries is all the work.

    `prefix` (K, P, D) and `keys` (N, K, S, D) are keys, `values` all of a cache's. Keys times queries is twice as fast
    as queries times keys. Values are summed as an embedding's rows are: a bag for each query, whose rows are added one
    after the other, so that no other bag changes a bit of the sum.
    """
    rows, key_heads = keys.shape[:2]
    scaled = (q * q.shape[-1] ** -0.5).reshape(rows, key_heads, -1, q.shape[-1])  # (N, K, G, D)
    own = torch.baddbmm(reads.mask, keys.flatten(0, 1), scaled.flatten(0, 1).transpose(1, 2))  # (N x K, S, G)
    scores = own.unflatten(0, (rows, key_heads)).transpose(2, 3)
    if prefix is not None:
        scores = torch.cat((_times_shared(scaled, prefix.transpose(1, 2)), scores), dim=-1)
    weights = scores.softmax(-1).flatten()
    return F.embedding_bag(reads.places, values, reads.starts, mode="sum", per_sample_weights=weights).view_as(q)


def attend_in_parts(
    q: Tensor, prefix: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, mask: Tensor
) -> Tensor:
    """Attention of (N, H, L, D) queries to a prefix that all rows share, (K, P, D), and to their own, (N, K, S, D).

    `mask` from `mask_of` is added to the (N, K, G, L, P + S) scores. Gives (N, H, L, D).
    """
    rows, heads, new, size = q.shape
    grouped = q.reshape(rows, keys.shape[1], -1, size)  # (N, K, R, D)
    scores = grouped @ keys.transpose(-1, -2)  # (N, K, R, S)
    if prefix is None:
        return (_weights(scores, mask, size) @ values).view(rows, heads, new, size)
    shared = _times_shared(grouped, prefix[0].transpose(1, 2))
    weights = _weights(torch.cat((shared, scores), dim=-1), mask, size)
    of_prefix, of_own = weights.split((shared.shape[-1], scores.shape[-1]), dim=-1)
    return (of_own @ values + _times_shared(of_prefix, prefix[1])).view(rows, heads, new, size)


def _times_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """(N, K, R, A) times (K, A, B), which all rows share → (N, K, R, B): one product a head for all rows."""
    return (rows.transpose(0, 1).flatten(1, 2) @ shared).unflatten(1, (len(rows), -1)).transpose(0, 1)


def _weights(scores: Tensor, mask: Tensor, size: int) -> Tensor:
    """Softmax of scaled and masked (N, K, R, P + S) scores."""
    by_place = scores.unflatten(2, (-1, mask.shape[-2]))  # (N, K, G, L, P + S)
    return torch.add(mask, by_place, alpha=size**-0.5).softmax(-1).flatten(2, 3)


def mask_of(seen: Tensor, prefix: int) -> Tensor:
    """(N, L, S), true where a place may be seen → (N, 1, 1, L, P + S), -inf where not; the prefix always may."""
    mask = torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, -torch.inf)
    return F.pad(mask, (prefix, 0))[:, None, None]
