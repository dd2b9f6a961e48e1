import json
import re
from collections import Counter
from pathlib import Path

import pytest
from rapidfuzz import fuzz, process
from small_splits import split_examples

from instruct.core.params import load_params
from instruct.core.records import read_examples
from instruct.splitting.partition import SplitParams

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "instructions.json"
BOOK = ROOT.parent / "shared" / "data" / "seed" / "instruction-data.json"


@pytest.fixture(scope="module")
def rows():
    return json.loads(DATA.read_text(encoding="utf-8"))


def normal(text):
    return re.sub(r"[^\w]+", " ", text.lower()).strip()


def test_there_are_enough_records_of_enough_kinds_and_none_dominates(rows):
    kinds = Counter(row["kind"] for row in rows)
    assert len(rows) >= 1200
    assert len(kinds) >= 60
    assert max(kinds.values()) <= 0.03 * len(rows)


def test_records_are_whole_trimmed_and_free_of_markup(rows):
    for row in rows:
        assert set(row) == {"instruction", "input", "output", "kind"}
        for value in row.values():
            assert value == value.strip()
            assert not re.search(r"###|<\||[\x00-\x09\x0b-\x1f\x7f]", value)
    assert len(read_examples(DATA)) == len(rows)


def test_no_prompt_stands_twice(rows):
    prompts = Counter(normal(row["instruction"] + " " + row["input"]) for row in rows)
    assert [prompt for prompt, count in prompts.items() if count > 1] == []


def test_it_is_no_template_multiplied(rows):
    for kind in {row["kind"] for row in rows}:
        instructions = [row["instruction"] for row in rows if row["kind"] == kind]
        openings = {" ".join(text.split()[:3]).lower() for text in instructions}
        assert len(openings) >= 5, kind


@pytest.mark.skipif(not BOOK.exists(), reason="the folder ../shared/data is not here")
def test_no_record_is_a_near_copy_of_the_books(rows):
    def whole(row):
        return normal(f"{row['instruction']} {row['input']} {row['output']}")

    book = [whole(row) for row in json.loads(BOOK.read_text(encoding="utf-8"))]
    copies = [
        (row, book[found[2]])
        for row in rows
        if (found := process.extractOne(whole(row), book, scorer=fuzz.ratio, score_cutoff=90))
    ]
    assert copies == []


def test_params_hold_at_least_200_records_out_for_the_test():
    params = load_params("split", SplitParams, ROOT / "params.yaml")
    parts = split_examples(read_examples(ROOT / params.data), params)
    assert ROOT / params.data == DATA
    assert len(parts["test"]) >= 200
    assert all(parts.values())


def test_held_out_prompts_are_not_in_training(rows):
    params = load_params("split", SplitParams, ROOT / "params.yaml")
    parts = split_examples(read_examples(DATA), params)
    seen = {(example.instruction, example.input) for name in ("train", "val") for example in parts[name]}
    assert [e for e in parts["test"] if (e.instruction, e.input) in seen] == []
