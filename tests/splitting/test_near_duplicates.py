import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz, process
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from instruct.core.held_out import normalise
from instruct.core.records import Example, Turn, read_examples
from instruct.splitting.near_duplicates import compared_text, find_duplicates, name_groups

ROOT = Path(__file__).parents[2]
BOOK = ROOT.parent / "shared" / "data" / "seed" / "instruction-data.json"


def groups(texts, similarity, method):
    return name_groups(len(texts), find_duplicates(texts, similarity, method).links)


def ratios(texts):
    """The similarity of all pairs."""
    return process.cdist(texts, texts, scorer=fuzz.ratio, dtype=np.float64)


def groups_by_brute_force(texts, found, similarity):
    """The first member of each text's group, by all pairs and another program's components."""
    alike = found >= similarity
    filled = np.array([bool(text) for text in texts])
    alike &= filled[:, None] & filled[None, :]
    _, labels = connected_components(coo_matrix(alike), directed=False)
    first = {}
    return [first.setdefault(label, i) for i, label in enumerate(labels)]


def real_texts():
    return [compared_text(example, "prompt") for example in read_examples(ROOT / "data" / "instructions.json")]


def with_copies(texts, seed, changes=3):
    """The texts, and of every second one a copy with a few letters changed, all in a random order."""
    rng = random.Random(seed)
    copies = []
    for text in texts[::2]:
        letters = list(text)
        for _ in range(rng.randint(0, changes)):
            letters[rng.randrange(len(letters))] = rng.choice("abcdefghij ")
        copies.append(normalise("".join(letters)))
    mixed = texts + copies
    rng.shuffle(mixed)
    return mixed


@settings(max_examples=60)
@given(
    texts=st.lists(st.text("ab ", max_size=12).map(normalise), max_size=25),
    similarity=st.sampled_from([50.0, 75.0, 80.0, 90.0, 100.0]),
)
def test_exact_groups_are_the_connected_parts_of_all_similar_pairs(texts, similarity):
    expected = groups_by_brute_force(texts, ratios(texts), similarity) if texts else []
    assert groups(texts, similarity, "exact") == expected


@pytest.fixture(scope="module")
def compared():
    texts = with_copies(real_texts(), seed=1)
    return texts, ratios(texts)


@pytest.mark.parametrize("similarity", [80.0, 90.0, 95.0])
def test_minhash_agrees_with_comparing_all_pairs(similarity, compared):
    texts, found = compared
    exact, minhash = groups(texts, similarity, "exact"), groups(texts, similarity, "minhash")
    assert exact == groups_by_brute_force(texts, found, similarity)
    together = {(a, i) for i, a in enumerate(exact) if a != i}
    assert len(together) > 500
    assert len(together & {(a, i) for i, a in enumerate(minhash)}) >= 0.99 * len(together)


def test_minhash_never_joins_what_is_not_similar():
    texts = with_copies(real_texts(), seed=2, changes=12)
    for earlier, later in find_duplicates(texts, 90, "minhash").links.tolist():
        assert fuzz.ratio(texts[earlier], texts[later]) >= 90


@pytest.mark.parametrize("method", ["exact", "minhash"])
def test_groups_of_the_first_texts_do_not_depend_on_the_texts_behind(method):
    texts = with_copies(real_texts()[:400], seed=3, changes=8)
    links = find_duplicates(texts, 85, method).links
    for count in (1, 50, 300, 599):
        assert find_duplicates(texts[:count], 85, method).links.tolist() == links[links[:, 1] < count].tolist()


def test_many_equal_and_many_similar_texts_cost_no_pair_each():
    equal = ["the same text again and again"] * 4_000
    similar = [f"write one short sentence about the number {i:06d} and nothing else" for i in range(4_000)]
    found = find_duplicates(equal + similar, 90, "minhash")
    assert len(found.links) < 8_000
    assert Counter(name_groups(8_000, found.links)) == {0: 4_000, 4_000: 4_000}


def test_texts_that_differ_in_case_space_and_unicode_forms_are_equal():
    forms = ["Caf\u00e9  au lait", "cafe\u0301 au\nLAIT ", "\uff43af\u00e9 au lait"]
    assert {normalise(form) for form in forms} == {"caf\u00e9 au lait"}
    assert find_duplicates([normalise(form) for form in forms], 100, "exact").same.tolist() == [0, 0, 0]


def test_empty_texts_are_like_no_other():
    assert groups(["", "", "a", "", "a"], 90, "exact") == [0, 1, 2, 3, 2]
    assert groups(["", "", "a", "", "a"], 90, "minhash") == [0, 1, 2, 3, 2]
    assert groups([], 90, "minhash") == []
    assert groups(["", ""], 90, "auto") == [0, 1]


@pytest.fixture(scope="module")
def book():
    if not BOOK.exists():
        pytest.skip("the folder ../shared/data is not here")
    return json.loads(BOOK.read_text(encoding="utf-8"))


def test_input_of_the_books_data_has_the_near_duplicates_that_its_own_tool_misses(book):
    texts = [normalise(row["input"]) for row in book]
    found = groups(texts, 90, "exact")
    sizes = Counter(found)
    assert sum(size > 1 for size in sizes.values()) == 15
    alike = [(i, j) for i, a in enumerate(texts) for j in range(i) if a and texts[j] and fuzz.ratio(a, texts[j]) >= 95]
    assert len(alike) == 15
    assert all(found[i] == found[j] for i, j in alike)


def test_chats_that_end_alike_are_no_duplicates():
    ended = Example(id="a", instruction="And why?", input="", output="x")
    told = [
        replace(ended, history=(Turn(text, "", text),)) for text in ("Name a bird.", "Count up to a hundred in Greek.")
    ]
    for on, last in (("prompt", 1), ("whole", 3)):  # a system prompt is a part of the whole record alone
        texts = [compared_text(one, on) for one in (ended, *told, replace(told[0], system="Be brief."))]
        assert find_duplicates(texts, 90.0, "exact").same.tolist() == [0, 1, 2, last]
    assert {compared_text(one, "instruction") for one in (ended, *told)} == {"and why?"}
