"""Candidate pairs of similar texts: MinHash signatures of their character trigrams, cut into bands.

Two texts that share a whole band meet in a bucket. In a bucket each text is compared with the first WINDOW texts and
with the WINDOW just before it, so the work grows as the number of texts, however many share a beginning; and whether
two texts meet depends on no later one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

HASHES = 160
WINDOW = 8
CHUNK = 2000  # texts hashed at a time: their trigrams fit the processor's cache
THREADS = 2
Words = NDArray[np.uint32]


def rows_per_band(similarity: float) -> int:
    """How many of the hashes make a band, so that two texts at the threshold share one with 98 % or more.

    A share e of changed characters, each apart from the others, leaves (1 - e)^3 of the trigrams, which is the
    worst case; a pair that shares trigrams with Jaccard index J shares a band of r hashes with probability J^r.
    """
    left = (similarity / 100) ** 3
    jaccard = left / (2 - left)
    rows = [r for r in range(1, 9) if 1 - (1 - jaccard**r) ** (HASHES // r) >= 0.98]
    return max(rows, default=1)


def find_candidates(texts: Sequence[str], similarity: float) -> Iterator[Iterator[NDArray[np.int64]]]:
    """For each band, some at a time, the pairs (earlier, later) that share it and may be similar by their lengths."""
    bands = hash_bands(texts, rows_per_band(similarity))
    lengths = np.fromiter((len(text) for text in texts), np.int32, len(texts))

    def close_in_length(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        short, long = np.sort(lengths[pairs], axis=1).T
        return pairs[2 * short >= similarity / 100 * (short + long.astype(np.float64))]

    for band in bands:
        yield (close_in_length(pairs) for pairs in pairs_of_band(band))


def pairs_of_band(band: Words) -> Iterator[NDArray[np.int64]]:
    """Pairs with equal words, lag by lag: with the WINDOW before, then with the first WINDOW of the bucket."""
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
    """The bands of every text, (bands, texts)."""
    multipliers, offsets = _draw_hashes()
    bands = np.empty((HASHES // rows, len(texts)), np.uint32)

    def fill(start: int) -> None:
        chunk = [texts[i] for i in range(start, min(start + CHUNK, len(texts)))]
        grams, starts = trigrams(chunk)
        for band in range(len(bands)):
            mixed = np.zeros(len(chunk), np.uint32)
            for row in range(band * rows, (band + 1) * rows):
                least = np.minimum.reduceat(grams * multipliers[row] + offsets[row], starts)
                mixed = _mix(mixed ^ least)
            bands[band, start : start + len(chunk)] = mixed

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(0, len(texts), CHUNK)))
    return bands


def trigrams(texts: Sequence[str]) -> tuple[Words, NDArray[np.int64]]:
    """The hashed character trigrams of all texts in one row, and where each text's begin.

    A text gets two spaces before it and one behind it, so every one has some, and words at its ends count too.
    """
    padded = [f"  {text} " for text in texts]
    characters = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32)
    lengths = np.fromiter((len(text) for text in padded), np.int64, len(padded))
    ends = np.cumsum(lengths)
    a, b, c = characters[:-2], characters[1:-1], characters[2:]
    grams = _mix(a * np.uint32(0x9E3779B1) ^ _mix(b * np.uint32(0x85EBCA77) ^ _mix(c)))
    inside = np.ones(len(grams), bool)
    inside[ends[:-1] - 1] = inside[ends[:-1] - 2] = False  # those that reach into the next text
    return grams[inside], np.r_[0, np.cumsum(lengths - 2)[:-1]]


def _mix(words: Words) -> Words:
    """A bijection of 32-bit words that spreads every bit (the end of MurmurHash3)."""
    words = (words ^ (words >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return words ^ (words >> np.uint32(16))


def _draw_hashes() -> tuple[Words, Words]:
    drawn = np.random.Generator(np.random.PCG64(20)).integers(0, 2**32, (2, HASHES), np.uint32)
    return drawn[0] | np.uint32(1), drawn[1]
