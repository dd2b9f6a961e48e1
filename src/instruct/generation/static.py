"""Answers on a GPU: each step uses the same tensors in the same places, so that it can be a CUDA graph.

A GPU computes a token of a small language model in about a millisecond, and launching the hundreds of kernels one by
one takes ten times as long. So a step is recorded once for each bucket of rows and replayed; the next tokens are
chosen on the device, and the host reads several steps at once to see who has finished. Where recording fails or
gives other logits than the same operations one by one, the operations run one by one, as on a CPU for tests.

    R rows of the cache · N rows in use, rounded up · W width of a row in tokens · K key heads · G query heads a key
    head · D head size
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.generation.cache import TILE, whole_tiles
from instruct.generation.engine import Model
from instruct.model.decoder import repeat_keys

log = logging.getLogger(__name__)

BURST = 8  # steps between two checks for finished rows; a finished row computes at most this many useless tokens
GROWTH = 4  # from one bucket of rows to the next: few rows cost a GPU nearly as much as many
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}  # of the logits' norm


class StaticEngine:
    """A model and the keys and values of `slots` rows, each with room for the prefix and `capacity` own tokens."""

    prefill_tokens = 16384

    def __init__(self, model: Model, prefix: Sequence[int], *, slots: int, capacity: int, vocab_size: int) -> None:
        self.model, self.prefix, self._vocab_size = model, list(prefix), vocab_size
        self._rows, self._width = whole_tiles(slots), whole_tiles(len(prefix) + capacity)
        device = model.device
        self._places = torch.arange(self._width, device=device)
        self._lengths = torch.zeros(self._rows, dtype=torch.long, device=device)  # tokens held in each row
        self._tokens = torch.zeros(self._rows, dtype=torch.long, device=device)  # the newest, not yet held
        self._broken = torch.zeros(self._rows, dtype=torch.bool, device=device)  # whose logits are not numbers
        self._chosen = torch.zeros(BURST, self._rows, dtype=torch.long, device=device)
        self._logits = torch.zeros(0, device=device)
        self._cache = torch.zeros(0, device=device)  # (layers, 2, R, W, K, D)
        self._graphs: dict[int, Callable[[], None]] = {}
        self._records = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._records else None
        self._shared: list[tuple[Tensor, Tensor]] = []  # a layer: keys and values of the prefix, each (1, K, P, D)
        if self.prefix:
            ids = torch.tensor([self.prefix], device=device)
            self.model.hidden_states(ids, self._places[None, : len(self.prefix)], self._attend_to_prefix)

    def prefill(self, own_parts: Sequence[Sequence[int]], first: int) -> Tensor:
        """Run the own parts of prompts, behind the prefix, into the rows from `first` on → (N, vocab_size) logits."""
        lengths = torch.tensor([len(part) for part in own_parts])
        ids = torch.zeros(len(own_parts), whole_tiles(int(lengths.max())), dtype=torch.long)
        for row, tokens in zip(ids, own_parts, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        device, start = self.model.device, len(self.prefix)
        ids, lengths = ids.to(device), lengths.to(device)
        self._lengths[first : first + len(ids)] = start + lengths
        # What fills a row up comes after its tokens: causal attention hides it from them.
        positions = self._places[start : start + ids.shape[1]].clamp(max=self.model.block_size - 1).expand_as(ids)
        hidden = self.model.hidden_states(ids, positions, partial(self._attend_to_prompt, first))
        ends = hidden[torch.arange(len(ids), device=device), lengths - 1]
        return self.model.logits(ends)[:, : self._vocab_size].float()

    def _attend_to_prefix(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._shared.append((k, v))
        return F.scaled_dot_product_attention(q, repeat_keys(q, k), repeat_keys(q, v), is_causal=True)

    def _attend_to_prompt(self, first: int, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self._cache.numel():
            shape = (len(self.model.blocks), 2, self._rows, self._width, k.shape[1], k.shape[3])
            self._cache = k.new_zeros(shape)
        if self._shared:
            k, v = (
                torch.cat((shared.expand(len(own), -1, -1, -1), own), dim=2)
                for shared, own in zip(self._shared[layer], (k, v), strict=True)
            )
        rows, width = slice(first, first + len(k)), slice(0, k.shape[2])
        self._cache[layer, 0, rows, width] = k.transpose(1, 2)
        self._cache[layer, 1, rows, width] = v.transpose(1, 2)
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        return F.scaled_dot_product_attention(q, repeat_keys(q, k), repeat_keys(q, v), attn_mask=seen)

    def decode(self, tokens: Sequence[int]) -> Tensor:
        """Run one more token of each of the first rows → (N, vocab_size) logits of what follows."""
        self._run(tokens, 1)
        return self._logits[: len(tokens)]

    def decode_greedily(self, tokens: Sequence[int], steps: int) -> tuple[list[list[int]], list[bool]]:
        """Run the newest token of each of the first rows and choose the likeliest next one, `steps` times over.

        Gives the tokens of each step, and which rows' logits were not numbers at some step.
        """
        self._broken.zero_()
        self._run(tokens, steps)
        read = torch.cat((self._chosen[:steps], self._broken[None].long()))[:, : len(tokens)].tolist()
        return read[:-1], [bool(broken) for broken in read[-1]]

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another."""
        self._cache[:, :, target] = self._cache[:, :, source]
        self._lengths[target] = self._lengths[source]

    def _run(self, tokens: Sequence[int], steps: int) -> None:
        rows = self._bucket(len(tokens))
        self._tokens[: len(tokens)] = torch.tensor(tokens).to(self._tokens.device)
        if rows not in self._graphs:
            self._graphs[rows] = self._prepare(rows)
        for step in range(steps):
            self._graphs[rows]()
            self._chosen[step] = self._tokens

    def _bucket(self, count: int) -> int:
        """The rows of the step in which so many are in use."""
        rows = TILE
        while rows < count:
            rows *= GROWTH
        return min(rows, self._rows)

    def _step(self, rows: int) -> None:
        """One token of each of the first `rows`, from and into tensors that stay where they are."""
        lengths, tokens = self._lengths[:rows], self._tokens[:rows]
        positions = lengths.clamp(max=self.model.block_size - 1)[:, None]
        seen = self._places <= lengths[:, None]  # (N, W)
        mask = torch.zeros(seen.shape, dtype=self._cache.dtype, device=seen.device).masked_fill(~seen, -torch.inf)
        places = torch.arange(rows, device=seen.device) * self._width + lengths  # of rows one behind the other
        attend = partial(self._attend_to_row, rows, mask[:, None, None], places)
        hidden = self.model.hidden_states(tokens[:, None], positions, attend)[:, 0]
        logits = self.model.logits(hidden)[:, : self._vocab_size].float()
        if self._logits.shape[1:] != logits.shape[1:]:
            self._logits = logits.new_zeros(self._rows, logits.shape[1])
        self._logits[:rows] = logits
        self._broken[:rows] |= ~logits.sum(-1).isfinite()
        tokens.copy_(logits.argmax(-1))
        # A finished row may continue, at its last place, until the host sees it.
        lengths.add_(1).clamp_(max=self._width - 1)

    def _attend_to_row(
        self, rows: int, mask: Tensor, places: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Store a key and a value in each row, and attend to what the rows hold: (N, K x G, 1, D)."""
        keys, values = self._cache[layer, :, :rows]  # each (N, W, K, D)
        keys.flatten(0, 1).index_copy_(0, places, k[:, :, 0])
        values.flatten(0, 1).index_copy_(0, places, v[:, :, 0])
        # Heads that share a key are queries of one head, so that no key is copied.
        grouped = q.squeeze(2).unflatten(1, (k.shape[1], -1))  # (N, K, G, D)
        out = F.scaled_dot_product_attention(grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
        return out.flatten(1, 2).unsqueeze(2)

    def _prepare(self, rows: int) -> Callable[[], None]:
        """The step over so many rows: recorded where that can be done, and checked; else operation by operation."""
        step = partial(self._step, rows)
        if not self._records:
            return step
        before = self._lengths.clone(), self._tokens.clone(), self._broken.clone()
        try:
            graph, difference = self._record(rows, step, before)
        except RuntimeError as error:
            self._restore(before)
            self._records = False
            log.info("answering cannot be recorded as a CUDA graph (%s); it runs slower", str(error).splitlines()[0])
            return step
        self._restore(before)
        if not difference <= TOLERANCE[self._cache.dtype]:
            self._records = False
            log.info("the recorded step gives other logits (by %.2g of their norm); it runs slower", difference)
            return step
        log.info("answering recorded as a CUDA graph for %d rows of %d tokens", rows, self._width)
        return graph.replay

    def _record(
        self, rows: int, step: Callable[[], None], before: tuple[Tensor, ...]
    ) -> tuple["torch.cuda.CUDAGraph", float]:
        """The graph, and by how much of their norm its logits differ from those of the same operations one by one."""
        stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)  # libraries initialise outside a recording, on a separate stream
        with torch.cuda.stream(stream):
            step()
        here.wait_stream(stream)
        expected = self._logits[:rows].clone()
        self._restore(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        self._logits.zero_()
        graph.replay()
        return graph, float((self._logits[:rows] - expected).norm() / expected.norm().clamp(min=1e-30))

    def _restore(self, state: tuple[Tensor, ...]) -> None:
        for tensor, kept in zip((self._lengths, self._tokens, self._broken), state, strict=True):
            tensor.copy_(kept)
