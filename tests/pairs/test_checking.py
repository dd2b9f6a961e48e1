"""Pairs that teach nothing or spoil the measurement are dropped and counted; no prompt is on both sides."""

from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from instruct.core.errors import DataError
from instruct.core.pairs import Pair
from instruct.core.params import build
from instruct.core.records import Example
from instruct.pairs.checking import check_pairs
from instruct.pairs.dividing import divide_pairs, groups_of
from instruct.pairs.settings import PairsParams
from instruct.pairs.summary import summarise_pairs

PARAMS = build(PairsParams, YAML(typ="safe").load(Path(__file__).parents[2] / "params.yaml")["pairs"], where="pairs")
TEST = [Example(id="held", instruction="Which planet is the largest of all?", input="", output="Jupiter.")]


def pair(prompt="Name a metal.", chosen="Copper.", rejected="An oak tree.", **others):
    values = {"id": prompt + chosen + rejected, "input": "", **others}
    return Pair(instruction=prompt, output=chosen, rejected=rejected, **values)


def test_each_fault_is_dropped_and_counted_by_its_reason():
    good = pair()
    long = "It is a long answer that says one thing after another, and this is how it ends: "
    pairs = [
        good,
        pair(chosen="Same  words.", rejected="Same words."),
        pair(chosen=f"{long}yes.", rejected=f"{long}yes!"),
        good,
        pair(prompt="which planet is the  largest of all"),
    ]
    checked = check_pairs(pairs, TEST, PARAMS)
    assert checked.pairs == [good]
    assert checked.dropped == {"identical": 1, "near_identical": 1, "repeated": 1, "leaked": 1}
    kept = check_pairs(pairs, TEST, replace(PARAMS, max_alike=100.0))
    assert kept.dropped["near_identical"] == 0 and kept.dropped["identical"] == 1


def test_upper_case_alone_is_a_preference():
    assert check_pairs([pair(chosen="COPPER.", rejected="copper.")], TEST, PARAMS).dropped["near_identical"] == 0


def test_a_leak_is_refused_with_both_records_where_that_is_set():
    leaking = pair(prompt="Which planet is the largest of all")
    with pytest.raises(DataError, match="held") as error:
        check_pairs([pair(), leaking], TEST, replace(PARAMS, on_leak="raise"))
    assert leaking.id in str(error.value)


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(DataError, match="2 identical"):
        check_pairs([pair(chosen="x", rejected="x")] * 2, TEST, PARAMS)
    with pytest.raises(DataError, match="7 no margin"):
        check_pairs([], TEST, PARAMS, {"no_margin": 7})


def test_pairs_that_say_the_opposite_are_counted():
    pairs = [pair(), pair(chosen="An oak tree.", rejected="Copper."), pair(prompt="Other?")]
    assert check_pairs(pairs, TEST, PARAMS).contradictory == 2


def test_no_prompt_and_no_group_is_on_both_sides_and_the_share_is_met():
    pairs = [pair(prompt=f"Prompt {i // 2}?", chosen=f"{i} is good.") for i in range(100)]
    train, val = divide_pairs(pairs, 0.2, 123)
    assert sorted(map(id, train + val)) == sorted(map(id, pairs))
    assert not {one.instruction for one in train} & {one.instruction for one in val}
    assert len(val) == 20
    assert divide_pairs(pairs, 0.2, 123) == (train, val)
    assert divide_pairs(pairs, 0.2, 124)[1] != val
    grouped = [replace(one, group=f"g{i // 2 % 5}") for i, one in enumerate(pairs)]
    train, val = divide_pairs(grouped, 0.2, 123)
    assert not {one.group for one in train} & {one.group for one in val}


@pytest.mark.parametrize("seed", range(120, 130))
@pytest.mark.parametrize(("large", "expected"), [(90, 10), (99, 1)])
def test_a_large_group_does_not_fill_the_held_out_part(seed, large, expected):
    pairs = [pair(prompt=f"Prompt {i}?", group="large" if i < large else "") for i in range(100)]
    train, val = divide_pairs(pairs, 0.1, seed)
    assert (len(train), len(val)) == (100 - expected, expected)


def test_the_smallest_group_is_held_out_where_each_exceeds_the_share():
    pairs = [pair(prompt=f"Prompt {i % 9 // 2}?", chosen=f"{i} is good.") for i in range(18)]
    assert {one.instruction for one in divide_pairs(pairs, 0.05, 123)[1]} == {"Prompt 4?"}


@pytest.mark.parametrize("seed", range(120, 130))
def test_no_prompt_is_on_both_sides_though_its_groups_differ(seed):
    pairs = [pair(prompt=f"Prompt {i % 10}?", chosen=f"{i} is good.", group=f"g{i}") for i in range(20)]
    pairs += [pair(prompt=f"Prompt {i}?", chosen="Tin.", group="") for i in range(10)]
    train, val = divide_pairs(pairs, 0.2, seed)
    assert len(val) == 6
    assert not {one.instruction for one in train} & {one.instruction for one in val}


def test_groups_that_a_chain_of_prompts_joins_are_one():
    pairs = [pair(prompt=f"Prompt {i // 2}?", group=f"g{(i + 1) // 2}") for i in range(9, -1, -1)]
    apart = pair(prompt="Other?", group="x")
    groups = groups_of([*pairs, apart])
    assert len(set(groups[:-1])) == 1 and groups[-1] == ("group", "x") != groups[0]
    assert groups_of([pair(prompt="x"), apart]) == [("prompt", "x"), ("group", "x")]


def test_prompts_are_counted_and_not_their_groups():
    pairs = [pair(prompt=f"Prompt {i}?", group=f"g{i // 5}") for i in range(20)]
    checked = check_pairs(pairs, TEST, PARAMS)
    assert summarise_pairs(checked, pairs, [], {}, 123)["prompts"] == 20


def test_one_prompt_or_one_group_cannot_be_divided_and_two_can():
    for one in ({}, {"group": "maths"}):
        pairs = [pair(prompt=f"Prompt {i if one else 0}?", chosen=f"{i} is good.", **one) for i in range(10)]
        with pytest.raises(DataError, match="none can be held out"):
            divide_pairs(pairs, 0.1, 123)
    train, val = divide_pairs([pair(), pair(prompt="Name a tree.")], 0.1, 123)
    assert len(train) == len(val) == 1
