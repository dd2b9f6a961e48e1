"""Forward passes for generation: the shared prefix once, prompts without padding, one token a row.

Matrix products of at least `TILE` rows give each row the same bits regardless of the others; smaller ones may use
other kernels. So every pass is padded to that many rows, and an answer never depends on its neighbours. A step of few
answers is padded to fewer rows where a trial on this processor finds the same bits.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from instruct.generation.cache import TILE, DecodeAttend, PrefillAttend, PrefixAttend, SlotCache
from instruct.model.decoder import Attend, attend_causally

FEW = (2, 4, 8)  # rows that a step may have instead of a whole tile
DRAFTED = 4  # rows that a step has at least if there are drafts to check
PART = 64  # places of a prompt whose logits are in memory at once


class Model(Protocol):
    """A model for generation: a Decoder, or one with other matrices."""

    block_size: int

    @property
    def device(self) -> torch.device: ...

    @property
    def blocks(self) -> nn.ModuleList: ...

    def hidden_states(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


class Engine:
    """A model, its cache, and which tokens all prompts begin with."""

    prefill_tokens = 512  # own tokens of prompts in one pass: enough to be fast, few enough for an early first token

    def __init__(self, model: Model, prefix: Sequence[int], *, slots: int, capacity: int, vocab_size: int) -> None:
        self.model, self.prefix, self._vocab_size = model, list(prefix), vocab_size
        self.cache = SlotCache(slots, capacity, model.device)
        self._suffice: dict[int, bool] = {}  # which of FEW have passed their trial
        if self.prefix:
            self._run_flat(self.prefix, list(range(len(self.prefix))), PrefixAttend(self.cache, len(self.prefix)))

    def prefill(self, own_parts: Sequence[Sequence[int]], first: int) -> Tensor:
        """Run the own parts of prompts into the slots from `first` on → (N, vocab_size) logits of what comes next."""
        start = len(self.prefix)
        ids = [token for part in own_parts for token in part]
        positions = [start + place for part in own_parts for place in range(len(part))]
        lengths = [len(part) for part in own_parts]
        hidden = self._run_flat(ids, positions, PrefillAttend(self.cache, first, lengths))
        ends = torch.tensor(lengths).cumsum(0).sub(1).to(hidden.device)
        return self._logits(hidden[ends], TILE)

    def spare(self, count: int) -> int:
        """How many tokens of drafts a step of so many answers checks at little cost."""
        return self._rows_for(max(count, DRAFTED)) - count

    def decode(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Run the newest token of each of the first rows, and what a draft says comes next; `keep` what was right.

        Gives (all tokens, vocab_size) logits of what comes after each, text by text.
        """
        count = sum(len(text) for text in texts)
        slots = [slot for slot, text in enumerate(texts) for _ in text]
        held = self.cache.lengths.tolist()
        places = [held[slot] + place for slot, text in enumerate(texts) for place in range(len(text))]
        return self._step(self.cache, slots, places, [token for text in texts for token in text], self._rows_for(count))

    def keep(self, counts: Sequence[int]) -> None:
        """Hold so many of the tokens of each text that were run last."""
        self.cache.lengths[: len(counts)] += torch.tensor(counts)

    def _step(
        self, cache: SlotCache, slots: Sequence[int], places: Sequence[int], tokens: Sequence[int], rows: int
    ) -> Tensor:
        """(N, vocab_size) logits of a step of `rows` rows, of which those past the N tokens only pad it."""
        filled = [*tokens, *[0] * (rows - len(tokens))]
        attend = DecodeAttend(cache, slots, places, rows)
        input_ids = torch.tensor(filled, device=self.model.device)[:, None]  # (N, 1)
        positions = (attend.places + len(self.prefix))[:, None]
        hidden = self.model.hidden_states(input_ids, positions, attend)[:, 0]
        return self._logits(hidden, rows)[: len(tokens)]

    def _rows_for(self, count: int) -> int:
        """The rows of a step of so many answers."""
        return next((rows for rows in FEW if count <= rows and self._suffices(rows)), max(count, TILE))

    def _suffices(self, rows: int) -> bool:
        """Whether a step of so many rows has the same bits as one of a whole tile, tried once with other tokens."""
        if rows not in self._suffice:
            trial, tokens = self.cache.emptied(TILE), [slot % self._vocab_size for slot in range(TILE)]
            whole, few = (self._step(trial, range(n), [0] * n, tokens[:n], n) for n in (TILE, rows))
            self._suffice[rows] = torch.equal(few, whole[:rows])
        return self._suffice[rows]

    def move(self, source: int, target: int) -> None:
        """Move a row to the place of another."""
        self.cache.move(source, target)

    def _run_flat(self, ids: list[int], positions: list[int], attend: Attend) -> Tensor:
        """(T,) tokens → (T, C) hidden states; a short pass is filled up with tokens that nothing attends to."""
        missing = max(TILE - len(ids), 0)
        input_ids = torch.tensor([ids + [0] * missing], device=self.model.device)
        places = torch.tensor([positions + [0] * missing], device=self.model.device)
        return self.model.hidden_states(input_ids, places, attend)[0, : len(ids)]

    def _logits(self, hidden: Tensor, least: int) -> Tensor:
        rows = len(hidden)
        if rows < least:
            hidden = torch.cat((hidden, hidden.new_zeros(least - rows, hidden.shape[1])))
        # A model may have padding rows, which are not tokens.
        return self.model.logits(hidden)[:rows, : self._vocab_size].float()


def prompt_logits(model: Model, ids: Sequence[int], vocab_size: int) -> Iterator[tuple[Tensor, Sequence[int]]]:
    """The logits at each place of a text but the first, (T, vocab_size), with the T tokens there."""
    places = torch.arange(len(ids), device=model.device)[None]
    hidden = model.hidden_states(torch.tensor([list(ids)], device=model.device), places, attend_causally)[0]
    for start in range(0, len(ids) - 1, PART):
        part = hidden[start : min(start + PART, len(ids) - 1)]
        yield model.logits(part)[:, :vocab_size].float(), ids[start + 1 : start + 1 + len(part)]


def not_numbers(logits: Tensor) -> list[bool]:
    """Which rows of (N, vocab_size) logits contain NaN or infinity."""
    return logits.sum(dim=-1).isfinite().logical_not().tolist()
