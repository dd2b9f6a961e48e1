"""Several sequences in one flat row, with what they all begin with computed once.

The row is the shared prefix, then each record's own tokens: a tree of tokens in depth-first order. A token sees itself
and those before it whose subtree it is in, so key k is visible to query q if `k <= q < ends[k]`, where `ends[k]` is one
past the last token that may see k. Everything but attention runs over the flat row without padding.

On a CPU attention gathers each record into its own row (`PackedAttend`), which costs little since own parts are
short. On a GPU every gather is a launch, so there one kernel a layer runs over the flat row (`TreeAttend`).

    P prefix tokens · N records · L own tokens of the longest · T = P + all own tokens · H heads · D head size
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from instruct.model.decoder import repeat_keys
from instruct.model.ragged import RaggedRows

DENSE_TOKENS = 4096  # a longer row's dense mask costs more than the blocks of it that it spares
SMALLEST_HEAD = 16  # that FlexAttention's kernels take


class PackedAttend:
    """Attention for a flat row of `prefix` shared tokens and then `lengths[n]` own tokens of each record."""

    def __init__(self, prefix: int, lengths: Sequence[int], device: torch.device) -> None:
        self._prefix = prefix
        self._own = RaggedRows(lengths, max(lengths, default=0), device)
        shared = torch.ones(*self._own.causal.shape[:2], prefix, dtype=torch.bool, device=device)
        self._mask = torch.cat((shared, self._own.causal), dim=2)[:, None]  # (N, 1, L, P + L)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(1, H, T, D) queries, keys and values → (1, H, T, D)."""
        k, v = repeat_keys(q, k), repeat_keys(q, v)
        head, own = slice(0, self._prefix), slice(self._prefix, None)
        shared = F.scaled_dot_product_attention(q[:, :, head], k[:, :, head], v[:, :, head], is_causal=True)
        if not self._own.width:
            return shared
        keys, values = (
            torch.cat((x[:, :, head].expand(self._own.count, -1, -1, -1), self._own.to_rows(x[0, :, own])), dim=2)
            for x in (k, v)
        )  # (N, H, P + L, D)
        rows = self._own.to_rows(q[0, :, own])  # (N, H, L, D)
        out = F.scaled_dot_product_attention(rows, keys, values, attn_mask=self._mask)  # (N, H, L, D)
        return torch.cat((shared, self._own.to_flat(out)[None]), dim=2)


class PathAttend:
    """The same attention for any tree of sequences: each gathers the tokens of its path into its own row.

    Attention from a token that several paths share is computed in each of their rows, and taken from the first.
    """

    def __init__(self, tree: "Tree", device: torch.device) -> None:
        self._count, self._width = len(tree.paths), max(map(len, tree.paths))
        source = torch.zeros(self._count, self._width, dtype=torch.long)  # causality hides the empty places
        first = torch.zeros(len(tree.ids), dtype=torch.long)
        for row in reversed(range(self._count)):
            path = torch.tensor(tree.paths[row])
            source[row, : len(path)] = path
            first[path] = row * self._width + torch.arange(len(path))
        self._source, self._first = source.flatten().to(device), first.to(device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(1, H, T, D) queries, (1, H/G, T, D) keys and values → (1, H, T, D)."""
        q, k, v = (self._to_rows(x[0]) for x in (q, k, v))  # (N, H, W, D)
        out = F.scaled_dot_product_attention(q, repeat_keys(q, k), repeat_keys(q, v), is_causal=True)
        return out.transpose(0, 1).flatten(1, 2).index_select(1, self._first)[None]

    def _to_rows(self, flat: Tensor) -> Tensor:
        return flat.index_select(1, self._source).unflatten(1, (self._count, self._width)).transpose(0, 1)


class TreeAttend:
    """The same attention as one kernel over the flat row, for a GPU; which kernel, the row's length decides.

    Up to `DENSE_TOKENS` it is scaled_dot_product_attention with a dense mask, made once for all layers on the device,
    with nothing that a CUDA graph could not record. Above it is FlexAttention, if the heads are large enough.
    """

    def __init__(self, ends: Tensor) -> None:
        self.ends = ends  # (T,)
        self._dense: Tensor | None = None
        self._blocks: BlockAttend | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(1, H, T, D) queries, (1, H/G, T, D) keys and values → (1, H, T, D)."""
        if len(self.ends) > DENSE_TOKENS and q.shape[-1] >= SMALLEST_HEAD and q.device.type == "cuda":
            self._blocks = self._blocks or BlockAttend(self.ends)
            return self._blocks(layer, q, k, v)
        if self._dense is None:
            self._dense = tree_mask(self.ends, q.dtype)
        k, v = repeat_keys(q, k), repeat_keys(q, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self._dense)


class BlockAttend:
    """The same attention as one fused kernel over a block mask (FlexAttention, Dong et al., 2024), for CUDA.

    Blocks of tokens that no query may see are skipped, so work and memory grow with the records' own lengths, not
    with the square of the row: tens of thousands of tokens fit into one step. torch compiles the kernel at its first
    use; on a CPU it has no backward pass, and its forward pass is a plain one for tests.
    """

    def __init__(self, ends: Tensor) -> None:
        compiled = ends.device.type == "cuda"

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (query < ends[key])

        size = len(ends)
        self._mask = create_block_mask(visible, None, None, size, size, device=str(ends.device), _compile=compiled)
        self._kernel = compiled_flex_attention() if compiled else cast(Callable[..., object], flex_attention)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(1, H, T, D) queries, (1, H/G, T, D) keys and values → (1, H, T, D)."""
        return cast(Tensor, self._kernel(q, k, v, block_mask=self._mask, enable_gqa=q.shape[1] != k.shape[1]))


@cache
def compiled_flex_attention() -> Callable[..., object]:
    """The fused kernel, compiled once for rows of any length."""
    return cast(Callable[..., object], torch.compile(flex_attention, dynamic=True))


class Tree(NamedTuple):
    """Sequences as one flat row in depth-first order: what any of them begin with in common is there once.

    `ends` is for each token one past the last that may see it, `paths` the places of each sequence's tokens.
    """

    ids: list[int]
    positions: list[int]
    ends: list[int]
    paths: list[list[int]]


def grow_tree(sequences: Sequence[tuple[int, ...]]) -> Tree:
    """The smallest tree of these sequences, which are not empty; their order does not matter to it."""
    tree = Tree([], [], [], [[] for _ in sequences])
    path: list[int] = []
    before: tuple[int, ...] = ()
    # In sorted order a sequence shares with those before it just what it shares with the last of them.
    for i in sorted(range(len(sequences)), key=sequences.__getitem__):
        own = sequences[i]
        common = shared_prefix((before, own))
        for place in path[common:]:
            tree.ends[place] = len(tree.ids)
        path = [*path[:common], *range(len(tree.ids), len(tree.ids) + len(own) - common)]
        tree.ids.extend(own[common:])
        tree.positions.extend(range(common, len(own)))
        tree.ends.extend([0] * (len(own) - common))
        tree.paths[i] = path
        before = own
    for place in path:
        tree.ends[place] = len(tree.ids)
    return tree


def tree_ends(prefix: int, lengths: Sequence[int]) -> list[int]:
    """For each token of the flat row, one past the last that may see it: all for the prefix, else its record's end."""
    ends = [prefix + sum(lengths)] * prefix
    end = prefix
    for length in lengths:
        end += length
        ends += [end] * length
    return ends


def tree_mask(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """(T,) ends → (1, 1, T, T) to add to scores: 0 where query q (row) may see key k (column), else minus infinity."""
    place = torch.arange(len(ends), device=ends.device)
    visible = (place <= place[:, None]) & (place[:, None] < ends)
    mask = torch.zeros(visible.shape, dtype=dtype, device=ends.device)
    return mask.masked_fill_(~visible, float("-inf"))[None, None]


def shared_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all sequences begin with."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
