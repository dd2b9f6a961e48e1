"""Candidate pairs of similar texts: MinHash signatures (rensa) of their character trigrams, cut into bands.

Two texts that share a whole band are in one bucket. Each text is compared with the first WINDOW texts of its bucket
and the WINDOW texts just before it, so the work grows linearly, even if many texts start alike; and no later text
decides whether two texts are compared. No library's LSH promises either, so this module makes the buckets by sorting.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

HASHES = 160
WINDOW = 8
CHUNK = 5_000  # texts whose trigrams are in memory at once
SEED = 20
Words = NDArray[np.uint32]


def rows_per_band(similarity: float) -> int:
    """How many hashes make a band, so that two texts at the threshold share one with a probability of 98 % or more.

    In the worst case a share e of changed characters, none of them adjacent, leaves (1 - e)^3 of the trigrams. A pair
    of texts whose trigrams have the Jaccard index J shares a band of r hashes with probability J^r.
    """
    left = (similarity / 100) ** 3
    jaccard = left / (2 - left)
    rows = [r for r in range(1, 9) if 1 - (1 - jaccard**r) ** (HASHES // r) >= 0.98]
    return max(rows, default=1)


def find_candidates(texts: Sequence[str], similarity: float) -> Iterator[Iterator[NDArray[np.int64]]]:
    """For each band, in batches, the pairs (earlier, later) that share it and could be similar given their lengths."""
    bands = hash_bands(texts, rows_per_band(similarity))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))

    def close_in_length(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        short, long = np.sort(lengths[pairs], axis=1).T
        return pairs[2 * short >= similarity / 100 * (short + long)]

    for band in bands:
        yield (close_in_length(pairs) for pairs in pairs_of_band(band))


def pairs_of_band(band: Words) -> Iterator[NDArray[np.int64]]:
    """Pairs with equal words, lag by lag: with the WINDOW texts before, then with the first WINDOW of the bucket."""
    order = np.argsort(band, kind="stable")
    words = band[order]
    starts = np.maximum.accumulate(np.where(np.r_[True, words[1:] != words[:-1]], np.arange(len(words)), 0))
    place = np.arange(len(words)) - starts
    for lag in range(1, WINDOW + 1):
        later = np.flatnonzero(place >= lag)
        yield np.column_stack((order[later - lag], order[later]))
    for first in range(WINDOW):
        later = np.flatnonzero(place > first + WINDOW)
        yield np.column_stack((order[starts[later] + first], order[later]))


def hash_bands(texts: Sequence[str], rows: int) -> Words:
    """One word for each band of every text, (bands, texts)."""
    from rensa import RMinHash

    count = HASHES // rows
    factors = np.random.Generator(np.random.PCG64(SEED)).integers(0, 2**63, rows, np.uint64) * 2 + 1
    bands = np.empty((count, len(texts)), np.uint32)
    for start in range(0, len(texts), CHUNK):
        chunk = [trigrams(text) for text in texts[start : start + CHUNK]]
        signatures = np.array(RMinHash.digest_matrix_from_token_sets(chunk, HASHES, SEED).to_rows(), np.uint64)
        words = (signatures[:, : count * rows].reshape(-1, count, rows) * factors).sum(axis=2, dtype=np.uint64)
        bands[:, start : start + CHUNK] = (words >> np.uint64(32)).T
    return bands


def trigrams(text: str) -> list[str]:
    """All runs of three characters of a text, padded with two spaces before and one after, so that none is empty.

    >>> trigrams("ab")
    ['  a', ' ab', 'ab ']
    """
    padded = f"  {text} "
    return [padded[i : i + 3] for i in range(len(padded) - 2)]
