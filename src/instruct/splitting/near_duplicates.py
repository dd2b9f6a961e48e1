"""Finds near-duplicates: texts whose rapidfuzz ratio (0-100) reaches a threshold, and the groups that they form.

Texts are numbered in the order of the file, and a link never depends on a text that comes after both of its ends.
So the links among the first n records are the same whether or not more were appended, which is what lets the split
promise that appending moves nothing.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from instruct.core.params import require
from instruct.core.records import Example
from instruct.splitting.minhash import find_candidates
from instruct.splitting.union_find import UnionFind

FIELDS = {
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output",),
    "prompt": ("instruction", "input"),
    "whole": ("instruction", "input", "output"),
}
EXACT_LIMIT = 5_000  # distinct texts; up to here every pair is compared, which takes about three seconds
BLOCK_PAIRS = 500_000
Links = NDArray[np.int64]  # (n, 2): the earlier and the later text of each, sorted by the later


@dataclass(frozen=True, kw_only=True)
class DuplicatesParams:
    """The section `split.duplicates` of params.yaml.

    `on` names what is compared: a field, the prompt (instruction and input) or the whole record. `similarity` is
    the least rapidfuzz ratio of two near-duplicates, after upper and lower case and white space are made equal.
    """

    on: Literal["instruction", "input", "output", "prompt", "whole"]
    similarity: float
    mode: Literal["report", "drop", "group"]
    method: Literal["auto", "exact", "minhash"]

    def __post_init__(self) -> None:
        require("similarity", self.similarity, 50 <= self.similarity <= 100, "from 50 to 100")


def compared_text(example: Example, on: str) -> str:
    """The text by which an example is compared; empty where all fields of `on` are."""
    return normalise("\n".join(getattr(example, name) for name in FIELDS[on]))


def normalise(text: str) -> str:
    """One form for texts that differ only in case, white space or Unicode's ways to write a character."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What is alike among texts: `links` is a forest whose trees are the groups of near-duplicates.

    `same` is the place of the first equal text of each, its own where there is none before it.
    """

    links: Links
    same: NDArray[np.int64]


def find_duplicates(texts: Sequence[str], similarity: float, method: str) -> Duplicates:
    """Link every text to each earlier group of near-duplicates that it joins; an empty text is like no other.

    `exact` compares all pairs; `minhash` compares those that share a band of their MinHash signatures; `auto` is
    exact up to EXACT_LIMIT distinct texts.
    """
    same, filled = find_same(texts)
    first = np.flatnonzero(filled & (same == np.arange(len(texts))))
    distinct = _Subset(texts, first)
    if similarity == 100:
        near = np.empty((0, 2), np.int64)
    elif method == "exact" or (method == "auto" and len(first) <= EXACT_LIMIT):
        near = _compare_all(distinct, similarity)
    else:
        near = _compare_candidates(distinct, similarity)
    repeated = np.flatnonzero(same != np.arange(len(texts)))
    equal = np.column_stack((same[repeated], repeated))
    return Duplicates(links=keep_forest(len(texts), [equal, first[near]]), same=same)


def find_same(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of the first text equal to each, and which texts are not empty; an empty one equals only itself."""
    digests = np.zeros((len(texts), 2), np.uint64)
    filled = np.zeros(len(texts), bool)
    for i, text in enumerate(texts):
        if text:
            digests[i] = np.frombuffer(blake2b(text.encode("utf-8"), digest_size=16).digest(), np.uint64)
            filled[i] = True
    same = np.arange(len(texts))
    places = np.flatnonzero(filled)
    # lexsort is stable, so the first of equal digests is the first in the file.
    places = places[np.lexsort((digests[places, 0], digests[places, 1]))]
    found = digests[places]
    new = np.r_[True, (found[1:] != found[:-1]).any(axis=1)][: len(places)]
    same[places] = places[new][np.cumsum(new) - 1]
    return same, filled


def keep_forest(count: int, parts: Iterable[Links]) -> Links:
    """The links, in the order of their later ends, that join what no link before them has joined."""
    return _grow_forest(count, parts)[0]


def _grow_forest(count: int, parts: Iterable[Links]) -> tuple[Links, NDArray[np.int64]]:
    """The forest, and of each text the first one of its group when it came, before any later text."""
    links = np.concatenate([part.reshape(-1, 2) for part in parts])
    links = links[np.lexsort((links[:, 0], links[:, 1]))]
    sets = UnionFind(count)
    roots = list(range(count))
    kept = []
    for earlier, later in links.tolist():
        kept.append(sets.join(earlier, later))
        roots[later] = sets.find(later)
    return links[np.array(kept, bool)], np.array(roots, np.int64)


def _compare_all(texts: Sequence[str], similarity: float) -> Links:
    """A forest of all pairs that are similar, by comparing every one with every earlier one."""
    parts = [np.empty((0, 2), np.int64)]
    start = 0
    while start < len(texts):
        end = min(len(texts), start + max(256, BLOCK_PAIRS // (start + 1000)))
        ratios = process.cdist(
            texts[start:end], texts[:end], scorer=fuzz.ratio, score_cutoff=similarity, dtype=np.float32
        )
        later, earlier = np.nonzero(ratios)
        later += start
        found = np.column_stack((earlier, later))[earlier < later]
        # Joined block by block, a large group costs a link for each member and not for each pair.
        parts = [keep_forest(len(texts), [*parts, found])]
        start = end
    return parts[0]


def _compare_candidates(texts: Sequence[str], similarity: float) -> Links:
    """A forest of the pairs of texts that share a band and are similar."""
    forest, roots = np.empty((0, 2), np.int64), np.arange(len(texts))
    for band in find_candidates(texts, similarity):
        found = [forest]
        for candidates in band:
            # Two texts that came to one group are joined already, by links that no later text can change.
            apart = candidates[roots[candidates[:, 0]] != roots[candidates[:, 1]]]
            found.append(apart[_are_similar(texts, apart, similarity)])
        if sum(map(len, found)) > len(forest):
            forest, roots = _grow_forest(len(texts), found)
    return forest


def _are_similar(texts: Sequence[str], pairs: Links, similarity: float) -> NDArray[np.bool_]:
    found = [np.empty(0, np.float32)]
    for start in range(0, len(pairs), BLOCK_PAIRS):
        block = pairs[start : start + BLOCK_PAIRS].tolist()
        left, right = [texts[i] for i, _ in block], [texts[j] for _, j in block]
        found.append(process.cpdist(left, right, scorer=fuzz.ratio, score_cutoff=similarity, dtype=np.float32))
    return np.concatenate(found) > 0


class _Subset(Sequence[str]):
    """Some of the texts, by their places; a text is read only when it is asked for."""

    def __init__(self, texts: Sequence[str], places: NDArray[np.int64]) -> None:
        self._texts = texts
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._texts[int(place)] for place in self._places[index]]
        return self._texts[int(self._places[index])]
