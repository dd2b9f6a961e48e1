"""Sampling the next token: pure functions of logits, settings and an explicit generator."""

from hashlib import sha256

import torch
from torch import Tensor

from instruct.generation.settings import GenerateParams


def next_token(logits: Tensor, params: GenerateParams, generator: torch.Generator) -> int:
    """Draw one token id from (vocab_size,) logits. Temperature 0 takes the likeliest, of equal ones the first.

    Top-k, then nucleus (Holtzman et al., 2020): the fewest likeliest tokens that together reach `top_p`.
    """
    if params.temperature == 0:
        return int(logits.argmax())
    # On the CPU in double precision: every device then draws alike, and MPS has no doubles. The largest logit
    # becomes 0, so that no temperature, however low, makes an infinity of it.
    logits = logits.cpu().double()
    scaled = (logits - logits.max()) / params.temperature
    probabilities = kept = scaled.softmax(-1)
    ids = torch.arange(len(scaled))
    if params.top_k:  # of equal ones the first, which topk does not promise
        ids = (scaled >= scaled.topk(min(params.top_k, len(scaled))).values[-1]).nonzero()[:, 0]
        probabilities, order = probabilities[ids].sort(descending=True, stable=True)
        probabilities = kept = probabilities[: params.top_k]
        ids = ids[order]
    elif params.top_p < 1:
        probabilities, ids = probabilities.sort(descending=True, stable=True)
    if params.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        kept = probabilities[before < params.top_p * probabilities.sum()]
    draw = torch.rand((), generator=generator, dtype=torch.float64) * kept.sum()
    place = int(torch.searchsorted(kept.cumsum(-1), draw, right=True))
    return int(ids[min(place, len(kept) - 1)])


def make_generator(seed: int, record_id: str) -> torch.Generator:
    """The random generator of one record, independent of the other records and the batch."""
    digest = sha256(f"{seed}\x1f{record_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
