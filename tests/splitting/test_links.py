"""Chats go together with the records that hold one of their turns, so that no test question is a turn of train."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct.core.errors import DataError
from instruct.core.params import load_params
from instruct.core.records import Example, Turn, read_examples
from instruct.splitting.links import FEW, find_ends, link_turns
from instruct.splitting.near_duplicates import name_groups
from instruct.splitting.partition import SplitParams, divide
from instruct.splitting.summary import find_warnings, summarise

ROOT = Path(__file__).parents[2]
PARAMS = load_params("split", SplitParams, ROOT / "params.yaml")
GREETING = Turn("Hi there", "", "Hello! How can I help you today?")
THANKS = Turn("Thanks!", "", "You are welcome.")


def with_mode(mode, **others):
    return replace(PARAMS, duplicates=replace(PARAMS.duplicates, mode=mode), **others)


def unlike(count, seed=1):
    """Turns whose questions resemble each other in nothing."""
    rng = random.Random(seed)
    return [
        Turn("".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(12)), "", f"Answer {i}.") for i in range(count)
    ]


def record(id_, *turns):
    *history, last = turns
    return Example(id=str(id_), **last._asdict(), history=tuple(history))


def learnt(examples, parts):
    """How many test records end with a turn of a train record."""
    turns = {turn for one, part in zip(examples, parts, strict=True) if part == "train" for turn in one.turns}
    return sum(one.turns[-1] in turns for one, part in zip(examples, parts, strict=True) if part == "test")


def counted(examples, params):
    division = divide(examples, params)
    counts = summarise(division, examples, params, refused=0)
    told = [line for line in find_warnings(division, counts, examples, params) if "end with a question" in line]
    assert counts["across"]["test"]["turn"] == learnt(examples, division.parts)
    return counts, told


def prefixes(chats=60, turns=3):
    said = [unlike(turns, seed) for seed in range(chats)]
    return [record(f"{chat}-{k}", *those[: k + 1]) for chat, those in enumerate(said) for k in range(turns)]


def questions_and_chats(count=60):
    asked, others = unlike(count), unlike(count, seed=2)
    opened = [record(f"opened {i}", asked[i], others[i]) for i in range(0, count, 2)]
    within = [record(f"within {i}", GREETING, asked[i], others[i]) for i in range(1, count, 2)]
    return [record(f"alone {i}", one) for i, one in enumerate(asked)] + opened + within


@pytest.mark.parametrize("made", [prefixes, questions_and_chats])
@pytest.mark.parametrize("mode", ["group", "drop"])
def test_no_test_record_ends_with_a_turn_that_train_holds(made, mode):
    examples = made()
    for shuffled in (False, True):
        if shuffled:
            random.Random(3).shuffle(examples)
        counts, told = counted(examples, with_mode(mode))
        assert counts["across"]["test"]["turn"] == counts["across"]["val"]["turn"] == 0
        assert counts["kept"] == len(examples) and told == []
        assert 60 - FEW < counts["groups"] <= 60  # the greeting joins a few


@pytest.mark.parametrize("params", [with_mode("report"), with_mode("group", strategy="positional")])
def test_turns_that_the_settings_leave_in_train_and_test_are_counted_and_told(params):
    examples = prefixes()
    random.Random(3).shuffle(examples)
    counts, told = counted(examples, params)
    assert counts["across"]["test"]["turn"] > 10 and counts["across"]["groups"] == 0
    assert any(" test records " in line and "split.duplicates.mode: group" in line for line in told)
    lines = find_warnings(divide(examples, params), counts, examples, params)
    assert not any('"group" or "parent"' in line for line in lines)


@pytest.mark.parametrize(("first", "last"), [(GREETING, None), (None, THANKS)])
def test_a_turn_of_most_chats_joins_few_of_them_and_what_it_leaves_is_counted(first, last):
    own = unlike(300)
    examples = [record(i, *filter(None, (first, one, last))) for i, one in enumerate(own)]
    sizes = Counter(divide(examples, PARAMS).groups)
    joined = FEW if last else 1  # what is asked before the last turn is no test question
    assert max(sizes.values()) == joined and len(sizes) == 300 - joined + 1
    counts, told = counted(examples, PARAMS)
    assert counts["across"]["test"]["turn"] == (counts["test"] if last else 0)
    assert bool(told) == bool(last)


def test_a_chain_of_chats_that_share_turns_is_named_with_a_setting_that_divides_it():
    own = unlike(61)
    chain = [record(i, own[i], own[i + 1]) for i in range(60)]
    with pytest.raises(DataError, match=r"turns that chats share.*split\.duplicates\.mode: report"):
        divide(chain, PARAMS)
    assert counted(chain, with_mode("report"))[1]
    examples = [record(f"s{i}", one) for i, one in enumerate(unlike(60, seed=2))] + chain
    division = divide(examples, PARAMS)
    lines = find_warnings(division, summarise(division, examples, PARAMS, refused=0), examples, PARAMS)
    assert any("turns that chats share" in line and "split.duplicates.mode: report" in line for line in lines)


def test_a_question_that_chats_share_joins_none_of_them_if_the_answers_differ():
    own = unlike(120)
    examples = [record(i, one, Turn("Continue.", "", f"Part {i}.")) for i, one in enumerate(own)]
    assert link_turns(examples).tolist() == []


def test_turns_of_records_of_one_question_are_left_to_near_duplicates():
    single = [record(i, THANKS) for i in range(3)]
    assert link_turns(single).tolist() == [] and find_ends(single, "abc") == [set(), set(), set()]
    chat = record("c", *unlike(1), THANKS)
    assert name_groups(4, link_turns([*single, chat])) == name_groups(4, link_turns([chat, *single])) == [0] * 4
    assert find_ends([*single, chat], "abcd") == [{"d"}] * 3 + [{"a", "b", "c", "d"}]
    assert link_turns([*single, chat], {0, 1, 2}).tolist() == []


def test_a_turn_is_the_same_whatever_its_case_its_blanks_and_where_its_input_is():
    (other,) = unlike(1)
    chat = record("c", Turn("Translate:\nOWL", "", "la  chouette"), other)
    assert len(link_turns([chat, record("s", Turn("translate:", "owl", "La chouette"))])) == 1


chats = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3), min_size=3, max_size=40).map(
    lambda rows: [record(i, *(Turn(text * 9, "", text) for text in texts)) for i, texts in enumerate(rows)]
)


@settings(max_examples=70)
@given(examples=chats, cut=st.integers(3, 39))
def test_appended_chats_change_no_link_and_move_none_but_those_reported(examples, cut):
    links = link_turns(examples)
    assert sorted(links[links[:, 1] < cut].tolist()) == sorted(link_turns(examples[:cut]).tolist())
    params = replace(PARAMS, train=0.4, val=0.3, test=0.3)
    try:
        whole, before = divide(examples, params), divide(examples[:cut], params)
    except DataError:
        return
    moved = {i for i, part in enumerate(before.parts) if part != whole.parts[i]}
    assert moved <= whole.pulled and all(before.parts[i] != "test" for i in moved)


def test_the_projects_own_records_have_no_turns_to_join():
    examples = read_examples(ROOT / "data" / "instructions.json")
    assert link_turns(examples).tolist() == []
