"""Finds near-duplicates: texts whose rapidfuzz ratio (0-100) reaches a threshold, and their groups.

Texts are numbered in file order, and a link never depends on a text after both of its ends. So the links among the
first n records stay the same if more records are appended, and therefore appending moves no record to another part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from instruct.core.held_out import normalise, prompt_of, whole_of, without_system
from instruct.core.params import require
from instruct.core.records import Example
from instruct.splitting.minhash import find_candidates

EXACT_LIMIT = 5_000  # distinct texts; up to this number all pairs are compared, in about three seconds
BLOCK_PAIRS = 500_000
Links = NDArray[np.int64]  # (n, 2): the earlier and the later text of each, sorted by the later
NO_LINKS: Links = np.empty((0, 2), np.int64)


@dataclass(frozen=True, kw_only=True)
class DuplicatesParams:
    """The section `split.duplicates` of params.yaml.

    `on` names the compared text: a field, the prompt (instruction and input, in a chat also the turns before them, but
    not its system prompt) or the whole record. `similarity` is the minimum rapidfuzz ratio of two near-duplicates,
    ignoring case and white space.
    """

    on: Literal["instruction", "input", "output", "prompt", "whole"]
    similarity: float
    mode: Literal["report", "drop", "group"]
    method: Literal["auto", "exact", "minhash"]

    def __post_init__(self) -> None:
        require("similarity", self.similarity, 50 <= self.similarity <= 100, "from 50 to 100")


def compared_text(example: Example, on: str) -> str:
    """The compared text of an example; empty if all fields of `on` are."""
    match on:
        case "prompt":
            return prompt_of(without_system(example))
        case "whole":
            return whole_of(example)
        case _:
            return normalise(getattr(example, on))


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Similar texts: `links` is a forest whose trees are the groups of near-duplicates.

    `same` is the index of the first equal text of each, or its own index if there is none before it.
    """

    links: Links
    same: NDArray[np.int64]


def find_duplicates(texts: Sequence[str], similarity: float, method: str) -> Duplicates:
    """Link every text to each earlier group of near-duplicates that it joins; an empty text joins no group.

    `exact` compares all pairs; `minhash` compares those that share a band of their MinHash signatures; `auto` is
    exact up to EXACT_LIMIT distinct texts.
    """
    same = find_same(texts)
    own = same == np.arange(len(texts))
    first = np.array([i for i in np.flatnonzero(own).tolist() if texts[i]], np.int64)
    distinct = [texts[i] for i in first.tolist()]
    if similarity == 100:
        near = NO_LINKS
    elif method == "exact" or (method == "auto" and len(first) <= EXACT_LIMIT):
        near = _compare_all(distinct, similarity)
    else:
        near = _compare_candidates(distinct, similarity)
    repeated = np.flatnonzero(~own)
    equal = np.column_stack((same[repeated], repeated))
    return Duplicates(links=keep_forest(len(texts), [equal, first[near]]), same=same)


def find_same(texts: Sequence[str]) -> NDArray[np.int64]:
    """The index of the first text equal to each; an empty text equals only itself."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, i) if text else i for i, text in enumerate(texts)], np.int64)


def keep_forest(count: int, parts: Iterable[Links]) -> Links:
    """The links, sorted by their later ends, that join two trees which no earlier link has joined."""
    links = np.concatenate([part.reshape(-1, 2) for part in parts])
    later, earlier = np.divmod(np.unique(links[:, 1] * count + links[:, 0]), max(count, 1))
    if not len(later):
        return NO_LINKS
    # With the index in that order as weight, the minimum spanning forest prefers the first links.
    weights = np.arange(1, len(later) + 1)
    forest = minimum_spanning_tree(coo_matrix((weights, (earlier, later)), (count, count)))
    kept = np.sort(forest.data.astype(np.int64)) - 1
    return np.column_stack((earlier[kept], later[kept]))


def first_links(links: Links) -> Links:
    """The first link of each later text, so that it joins one earlier group at most."""
    _, first = np.unique(links[:, 1], return_index=True)
    return links[first]


def name_groups(count: int, links: Links) -> list[int]:
    """The first member of each text's group."""
    if not count:
        return []
    ones = np.ones(len(links), np.int8)
    _, labels = connected_components(coo_matrix((ones, (links[:, 0], links[:, 1])), (count, count)), directed=False)
    _, first = np.unique(labels, return_index=True)
    return cast(list[int], first[labels].tolist())


def _compare_all(texts: Sequence[str], similarity: float) -> Links:
    """A forest of all similar pairs, from comparing every text with all earlier ones."""
    forest = NO_LINKS
    start = 0
    while start < len(texts):
        end = min(len(texts), start + max(256, BLOCK_PAIRS // (start + 1000)))
        ratios = process.cdist(
            texts[start:end], texts[:end], scorer=fuzz.ratio, score_cutoff=similarity, dtype=np.float32
        )
        later, earlier = np.nonzero(ratios)
        later += start
        found = np.column_stack((earlier, later))[earlier < later]
        # Joined block by block, a large group costs one link per member instead of one per pair.
        forest = keep_forest(len(texts), [forest, found])
        start = end
    return forest


def _compare_candidates(texts: Sequence[str], similarity: float) -> Links:
    """A forest of the pairs of texts that share a band and are similar."""
    forest, roots = NO_LINKS, np.arange(len(texts))
    for band in find_candidates(texts, similarity):
        found = [forest]
        for candidates in band:
            # Two texts with the same anchor are already joined, by links that no later text can change.
            apart = candidates[roots[candidates[:, 0]] != roots[candidates[:, 1]]]
            found.append(apart[_are_similar(texts, apart, similarity)])
        if sum(map(len, found)) > len(forest):
            forest = keep_forest(len(texts), found)
            roots = _roots_on_arrival(len(texts), forest)
    return forest


def _roots_on_arrival(count: int, forest: Links) -> NDArray[np.int64]:
    """The first text that each text was linked to, directly or through others; no later text changes it."""
    roots = list(range(count))
    for earlier, later in forest.tolist():
        roots[later] = min(roots[later], roots[earlier])
    return np.array(roots, np.int64)


def _are_similar(texts: Sequence[str], pairs: Links, similarity: float) -> NDArray[np.bool_]:
    found = [np.empty(0, np.float32)]
    for start in range(0, len(pairs), BLOCK_PAIRS):
        block = pairs[start : start + BLOCK_PAIRS].tolist()
        left, right = [texts[i] for i, _ in block], [texts[j] for _, j in block]
        found.append(process.cpdist(left, right, scorer=fuzz.ratio, score_cutoff=similarity, dtype=np.float32))
    return np.concatenate(found) > 0
