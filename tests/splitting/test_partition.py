import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_splits import split_examples

from instruct.core.errors import DataError
from instruct.core.records import Example, read_examples
from instruct.formats.columns import USUAL
from instruct.splitting.near_duplicates import DuplicatesParams
from instruct.splitting.partition import SplitParams, cut_parts

BOOK = Path(__file__).parents[3] / "shared" / "data" / "seed" / "instruction-data.json"
PARAMS = SplitParams(
    checks="checks.json",
    data="data.json", strategy="shuffled", train=0.85, val=0.05, test=0.1, stratify=True, seed=123, invalid="raise",
    duplicates=DuplicatesParams(on="prompt", similarity=90.0, mode="group", method="auto"), columns=USUAL,
)  # fmt: skip


WORDS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(1_000)]  # no two alike


def examples(count):
    return [Example(id=str(i), instruction=WORDS[i], input="", output=str(i)) for i in range(count)]


def ids(parts):
    return {name: [example.id for example in part] for name, part in parts.items()}


@pytest.mark.skipif(not BOOK.exists(), reason="the folder ../shared/data is not here")
def test_positional_split_of_the_books_data_is_the_books_own():
    rows = json.loads(BOOK.read_text(encoding="utf-8"))
    assert len(rows) == 1100
    parts = split_examples(read_examples(BOOK), replace(PARAMS, strategy="positional"))
    found = {name: [(e.instruction, e.input, e.output) for e in part] for name, part in parts.items()}
    raw = [(row["instruction"], row["input"], row["output"]) for row in rows]
    assert found == {"train": raw[:935], "test": raw[935:1045], "val": raw[1045:]}
    assert {name: len(part) for name, part in parts.items()} == {"train": 935, "test": 110, "val": 55}


def test_positional_is_train_then_test_then_val_in_the_order_of_the_file():
    parts = split_examples(examples(10), replace(PARAMS, strategy="positional", train=0.6, val=0.1, test=0.3))
    assert ids(parts) == {"train": list("012345"), "test": list("678"), "val": ["9"]}


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (1100, (0.85, 0.05, 0.1), (935, 55, 110)),
        (1536, (0.75, 0.05, 0.2), (1152, 77, 307)),
        (1000, (0.7, 0.2, 0.1), (700, 200, 100)),
        (10, (0.1, 0.8, 0.1), (1, 8, 1)),
        (100, (0.29, 0.42, 0.29), (29, 42, 29)),  # int(0.29 * 100) is 28
        (7, (0.5, 0.25, 0.25), (3, 3, 1)),
        (52002, (0.85, 0.05, 0.1), (44201, 2601, 5200)),
    ],
)
@pytest.mark.parametrize("strategy", ["positional", "shuffled"])
def test_sizes_follow_the_fractions(count, fractions, sizes, strategy):
    train, val, test = fractions
    parts, order = cut_parts(count, set(), replace(PARAMS, strategy=strategy, train=train, val=val, test=test))
    assert (parts.count("train"), parts.count("val"), parts.count("test")) == sizes
    assert sorted(order) == list(range(count))


@settings(max_examples=30)
@given(
    count=st.integers(3, 300),
    cuts=st.tuples(st.integers(1, 98), st.integers(1, 98)).filter(lambda c: c[0] != c[1]),
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["positional", "shuffled"]),
)
def test_every_record_is_in_exactly_one_part(count, cuts, seed, strategy):
    low, high = sorted(cuts)
    params = replace(
        PARAMS, strategy=strategy, seed=seed, train=low / 100, val=(high - low) / 100, test=(100 - high) / 100
    )
    given_examples = examples(count)
    try:
        parts = split_examples(given_examples, params)
    except DataError:
        assert min(int(count * low / 100), int(count * (100 - high) / 100)) == 0
        return
    together = [example for part in parts.values() for example in part]
    assert Counter(example.id for example in together) == Counter(example.id for example in given_examples)
    assert len(parts["train"]) == count * low // 100
    assert len(parts["test"]) == count * (100 - high) // 100


def test_same_seed_gives_the_same_split_and_another_seed_another():
    once = ids(split_examples(examples(200), PARAMS))
    assert ids(split_examples(examples(200), PARAMS)) == once
    other = ids(split_examples(examples(200), replace(PARAMS, seed=124)))
    assert all(set(other[part]) != set(once[part]) for part in ("train", "val", "test"))
    assert once["train"] != sorted(once["train"], key=int)


def test_shuffling_does_not_touch_the_global_generator_nor_the_given_list():
    import random

    given_examples = examples(50)
    random.seed(7)
    expected = random.Random(7).random()
    split_examples(given_examples, PARAMS)
    assert random.random() == expected
    assert [example.id for example in given_examples] == [str(i) for i in range(50)]


def test_each_part_draws_its_records_evenly_from_the_file():
    parts = split_examples(examples(1000), replace(PARAMS, train=0.5, val=0.25, test=0.25))
    first_half = sum(int(example.id) < 500 for example in parts["test"])
    # Hypergeometric: mean 125, standard deviation 6.85.
    assert 125 - 5 * 6.85 < first_half < 125 + 5 * 6.85


@pytest.mark.parametrize(
    ("count", "empty"), [(1, "train and test"), (2, "test"), (9, "test"), (0, "train and val and test")]
)
def test_a_part_that_would_be_empty_is_refused_by_name(count, empty):
    with pytest.raises(DataError, match=rf"^{count} records leave nothing for {empty}; "):
        split_examples(examples(count), PARAMS)
