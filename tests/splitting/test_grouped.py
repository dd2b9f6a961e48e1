import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_splits import split_examples

from instruct.core.errors import DataError
from instruct.core.held_out import HeldOut
from instruct.core.params import load_params
from instruct.core.records import Example, Turn, read_examples
from instruct.splitting.partition import DROPPED, PARTS, SplitParams, divide
from instruct.splitting.placement import HELD_OUT_FIRST, Move, Placer
from instruct.splitting.summary import find_warnings, summarise

ROOT = Path(__file__).parents[2]
BOOK = ROOT.parent / "shared" / "data" / "seed" / "instruction-data.json"
PARAMS = load_params("split", SplitParams, ROOT / "params.yaml")
EVEN = replace(PARAMS, train=0.4, val=0.3, test=0.3)


def with_duplicates(params, **changes):
    return replace(params, duplicates=replace(params.duplicates, **changes))


def example(number, instruction, **others):
    return Example(id=str(number), instruction=instruction, input="", output=f"answer {number}", **others)


def divided(examples, params):
    return divide(examples, params), examples


def parts_or_none(examples, params):
    try:
        return divided(examples, params)[0]
    except DataError:
        return None


@pytest.fixture(scope="module")
def own():
    return read_examples(ROOT / "data" / "instructions.json")


# Words so short that random records are near-duplicates of each other often, and join groups.
records = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=7), st.sampled_from(["", "x", "y"])), min_size=3, max_size=40
).map(lambda rows: [example(i, text, kind=kind) for i, (text, kind) in enumerate(rows)])


@settings(max_examples=70)
@given(examples=records, cut=st.integers(3, 39), seed=st.integers(0, 50), stratify=st.booleans())
def test_appending_moves_no_record_but_those_reported_and_none_out_of_test(examples, cut, seed, stratify):
    params = with_duplicates(replace(EVEN, seed=seed, stratify=stratify), similarity=70.0)
    whole, before = parts_or_none(examples, params), parts_or_none(examples[:cut], params)
    if whole is None or before is None:
        return
    moved = {move.record for move in whole.moved if move.joined_by >= cut}
    for record, part in enumerate(before.parts):
        if record not in moved:
            assert whole.parts[record] == part
        assert HELD_OUT_FIRST.index(whole.parts[record]) <= HELD_OUT_FIRST.index(part)


@settings(max_examples=50)
@given(examples=records, seed=st.integers(0, 50))
def test_no_group_straddles_parts(examples, seed):
    params = with_duplicates(replace(EVEN, seed=seed), similarity=70.0)
    if found := parts_or_none(examples, params):
        together = set(zip(found.groups, found.parts, strict=True))
        assert len(together) == len(set(found.groups))
        assert len(found.parts) == len(examples)


def test_a_record_that_joins_two_groups_moves_one_and_is_named():
    left, right = "a" * 30, "b" * 30
    bridge = "a" * 15 + "b" * 15  # 50 like either
    params = with_duplicates(replace(EVEN, stratify=False), similarity=50.0)
    others = [example(i, f"{i}{i}{chr(0x4E00 + i)}{chr(0x5E00 + i)}" * 4) for i in range(2, 12)]
    for seed in range(100):
        trial = replace(params, seed=seed)
        apart, _ = divided([example(0, left), example(1, right), *others], trial)
        if {"train", "test"} == {apart.parts[0], apart.parts[1]}:
            break
    joined, index = divided([example(0, left), example(1, right), *others, example("new", bridge)], trial)
    assert joined.parts[0] == joined.parts[1] == joined.parts[-1] == "test"
    assert [(move.source, move.target, move.joined_by) for move in joined.moved] == [("train", "test", 12)]
    lines = find_warnings(joined, summarise(joined, index, trial, refused=0), index, trial)
    mover = apart.parts.index("train")
    assert f"moved {mover} from train to test: new joins its group to one in test" in lines


def test_fractions_of_our_own_data_are_within_two_points_and_no_kind_is_left_out(own):
    parts = split_examples(own, PARAMS)
    for part, wanted in PARAMS.fractions.items():
        assert abs(len(parts[part]) / len(own) - wanted) < 0.005
    tests, kinds = Counter(e.kind for e in parts["test"]), {e.kind for e in own}
    assert set(tests) == kinds
    assert max(tests.values()) <= 6 and min(tests.values()) >= 4  # 4.8 of 16


def test_placement_by_the_hash_alone_depends_on_nothing_but_the_record(own):
    params = replace(PARAMS, stratify=False)

    def places(examples):
        return {e.id: part for part, those in split_examples(examples, params).items() for e in those}

    once = places(own)
    mixed = random.Random(4).sample(own, 700)
    found = places(mixed)
    assert found == {id_: once[id_] for id_ in found}


def test_taking_one_record_out_moves_few_others(own):
    def places(examples):
        return {e.id: part for part, those in split_examples(examples, PARAMS).items() for e in those}

    once, without = places(own), places(own[1:])
    assert sum(once[id_] != part for id_, part in without.items()) < 0.1 * len(own)


def test_another_seed_places_differently(own):
    tests = [{e.id for e in split_examples(own, replace(PARAMS, seed=seed))["test"]} for seed in (1, 2)]
    assert len(tests[0] & tests[1]) < 0.5 * len(tests[0])


def test_every_record_carries_the_id_of_the_first_of_its_group(own):
    copy = replace(own[7], id="copy", output="another answer")
    parts = split_examples([*own, copy], PARAMS)
    groups = {e.id: e.group for part in parts.values() for e in part}
    assert groups["copy"] == groups[own[7].id] == own[7].id
    assert all(groups.values())
    assert len(set(groups.values())) == len(own) - 1  # two of our own prompts are near-duplicates


def test_a_record_made_from_another_stays_with_it_even_before_it_in_the_file(own):
    children = [example(f"c{i}", f"{i} unlike {chr(0x4E00 + i) * 20}", parent=own[i].id) for i in range(60)]
    for examples in ([*own, *children], [*children, *own]):
        parts = split_examples(examples, PARAMS)
        place = {e.id: (part, e.group) for part, those in parts.items() for e in those}
        assert all(place[f"c{i}"] == place[own[i].id] for i in range(60))


def test_a_missing_parent_is_counted_and_said(own):
    found, index = divided([*own, example("child", "unlike any other", parent="gone")], PARAMS)
    counts = summarise(found, index, PARAMS, refused=0)
    assert counts["orphans"] == 1
    assert 'warning: the "parent" of child is not in the file; it is placed on its own' in find_warnings(
        found, counts, index, PARAMS
    )


def test_a_group_that_the_file_gives_stays_together(own):
    marked = [replace(e, group="mine") if i % 50 == 0 else e for i, e in enumerate(own)]
    parts = split_examples(marked, PARAMS)
    assert sum(any(e.group == own[0].id for e in part) for part in parts.values()) == 1


@pytest.mark.parametrize("strategy", ["grouped", "shuffled", "positional"])
def test_drop_keeps_the_first_of_each_group_and_nothing_alike_is_left(own, strategy):
    params = with_duplicates(replace(PARAMS, strategy=strategy), mode="drop")
    copies = [replace(e, id=f"copy {i}", instruction=e.instruction.upper() + "!") for i, e in enumerate(own[:100])]
    found, index = divided([*own, *copies], params)
    assert found.parts.count(DROPPED) == 101
    assert all(part == DROPPED for part in found.parts[len(own) :])
    counts = summarise(found, index, params, refused=0)
    assert (counts["dropped"], counts["kept"], counts["read"]) == (101, 1535, 1636)
    none = {"equal": 0, "near": 0, "turn": 0}
    assert counts["across"] == {"groups": 0, "val": none, "test": none}


@pytest.mark.parametrize("mode", ["report", "drop"])
def test_a_dropped_record_makes_no_near_duplicates_of_records_that_resemble_it_alone(mode):
    others = [example(i, f"{chr(0x4E00 + i)}{chr(0x5E00 + 3 * i)}" * 5) for i in range(8)]
    examples = [example(8, "one two one two aaaa"), *others, example(9, "one two one two bbbb")]
    examples.append(example(10, "one two one two aabb"))  # 90 % of either, which are 80 % of each other
    params = with_duplicates(replace(EVEN, strategy="positional"), mode=mode, similarity=85.0)
    found, index = divided(examples, params)
    counts = summarise(found, index, params, refused=0)
    assert counts["duplicates"]["records"] == 3 and found.parts[10] == ("dropped" if mode == "drop" else "val")
    told = [line for line in find_warnings(found, counts, index, params) if "near-duplicate" in line]
    assert (counts["across"]["groups"], counts["across"]["val"]["near"]) == ((0, 0) if mode == "drop" else (1, 2))
    assert bool(told) == (mode == "report")


def bridged(count):
    """Prompts that do not resemble each other, and bridges that resemble two of them and join all in one chain."""
    letters = [chr(0x4E00 + i) * 8 for i in range(count + 1)]
    ends = [example(i, letters[i] + letters[i + 1]) for i in range(0, count, 2)]
    return ends, [example(i, letters[i] + letters[i + 1]) for i in range(1, count, 2)]


def test_dropped_records_keep_no_others_in_one_part_and_blame_no_column():
    ends, bridges = bridged(80)
    params = with_duplicates(PARAMS, mode="drop", similarity=50.0)
    apart, joined = divide(ends, params), divide([*ends, *bridges], params)
    assert joined.similar == [0] * 80
    assert joined.parts == apart.parts + [DROPPED] * 40
    assert joined.groups[:40] == list(range(40)) and not joined.moved
    counts = summarise(joined, [*ends, *bridges], params, refused=0)
    lines = find_warnings(joined, counts, [*ends, *bridges], params)
    assert not any("column" in line or "moved" in line for line in lines)


def test_only_a_column_that_records_have_is_said_to_keep_a_group_together():
    same = [example(i, "one and the same question", group="ours" if i < 2 else "") for i in range(30)]
    mine = [example(i, f"{chr(0x4E00 + i)}{chr(0x5E00 + 3 * i)}" * 5) for i in range(30, 60)]
    examples = [*same, replace(mine[0], group="ours"), *mine[1:]]
    found, index = divided(examples, PARAMS)
    lines = find_warnings(found, summarise(found, index, PARAMS, refused=0), index, PARAMS)
    assert [line for line in lines if 'column "group" keeps it' in line] and not any("parent" in line for line in lines)


@pytest.mark.parametrize("link", ["group", "parent"])
@pytest.mark.parametrize("strategy", ["grouped", "shuffled", "positional"])
def test_groups_of_the_file_that_a_cut_tears_apart_are_told(own, strategy, link):
    own = own[:200]
    linked = [replace(e, **{link: own[i % 50].id}) if i >= 50 or link == "group" else e for i, e in enumerate(own)]
    found, index = divided(linked, replace(PARAMS, strategy=strategy))
    counts = summarise(found, index, PARAMS, refused=0)
    lines = [line for line in find_warnings(found, counts, index, PARAMS) if '"group" or "parent"' in line]
    assert bool(lines) == (strategy != "grouped")
    assert all("split.strategy: grouped" in line for line in lines)


def test_report_finds_what_it_does_not_keep_together(own):
    own = own[:500]
    copies = [replace(e, id=f"copy {i}", instruction=e.instruction + " !") for i, e in enumerate(own)]
    params = with_duplicates(PARAMS, mode="report")
    found, index = divided([*own, *copies], params)
    counts = summarise(found, index, params, refused=0)
    assert counts["across"]["groups"] > 100
    assert counts["across"]["test"]["near"] > 60
    assert any("have a near-duplicate in train" in line for line in find_warnings(found, counts, index, params))
    assert summarise(divided([*own, *copies], PARAMS)[0], index, PARAMS, refused=0)["across"]["groups"] == 0


def test_a_fraction_far_off_is_a_warning_that_names_the_large_group():
    same = [example(i, "one and the same question") for i in range(50)]
    others = [example(i, f"{chr(0x4E00 + i)}{chr(0x5E00 + 3 * i)}" * 5) for i in range(50, 100)]
    found, index = divided([*others, *same], PARAMS)
    lines = find_warnings(found, summarise(found, index, PARAMS, refused=0), index, PARAMS)
    assert any(line.startswith("warning: train has") and "one group has 50.0%" in line for line in lines)


@pytest.mark.parametrize("strategy", ["grouped", "shuffled"])
def test_a_miss_is_blamed_on_no_group_that_is_too_small_for_it(strategy):
    few = [example(i, f"{chr(0x4E00 + i)}{chr(0x5E00 + 3 * i)}" * 5) for i in range(11)]
    params = replace(PARAMS, strategy=strategy, train=0.5, val=0.25, test=0.25)
    found, index = divided(few, params)
    lines = find_warnings(found, summarise(found, index, params, refused=0), index, params)
    assert any(line.startswith("warning: test has") for line in lines)
    assert all("add records" in line and "split.duplicates" not in line for line in lines)


def test_a_family_that_unbalances_a_split_is_named_and_never_parted(own):
    children = [replace(one, parent=own[0].id) for one in own[40:200]]
    found, index = divided([*own[:40], *children], PARAMS)
    lines = find_warnings(found, summarise(found, index, PARAMS, refused=0), index, PARAMS)
    assert any('the column "parent" keeps it together' in line for line in lines)
    assert not any("shuffled" in line for line in lines)


def templated(count):
    """Prompts of one template: chance joins nearly all of them at 90, many at 95, a few at 96 and none at 98."""
    rng = random.Random(1)
    things = ["bird", "fish", "river", "city", "planet", "metal", "tree", "fruit"]
    things += ["song", "book", "coin", "lamp", "train", "ship", "cloud"]
    verbs = ["adds", "divides", "subtracts"]
    texts = [
        f"Write a Python function {rng.choice(things)}_{i} that {rng.choice(verbs)} its two arguments,"
        f" with {i} if they are equal."
        for i in range(count)
    ]
    return [example(i, text) for i, text in enumerate(texts)]


def far_from_shares(division):
    kept = len(division.parts)
    return {part for part in PARTS if abs(division.parts.count(part) / kept - PARAMS.fractions[part]) > 0.05}


def test_groups_that_join_and_empty_train_are_refused_with_a_setting_that_was_tried():
    examples = templated(200)
    with pytest.raises(DataError, match=r"train gets .* and test gets .* moved ") as refused:
        divide(examples, with_duplicates(PARAMS, similarity=95.0))
    assert str(refused.value).endswith("set split.duplicates.similarity: 98")
    assert not far_from_shares(divide(examples, with_duplicates(PARAMS, similarity=98.0)))


def test_a_refused_split_is_advised_no_setting_that_is_refused_too():
    assert "split.duplicates.similarity: 98" in refusal(templated(200), PARAMS)


def test_a_miss_that_joined_groups_cause_is_blamed_on_them_and_not_on_the_number_of_records():
    examples, params = templated(200), with_duplicates(PARAMS, similarity=96.0)
    found, index = divided(examples, params)
    assert "train" in far_from_shares(found) and max(Counter(found.groups).values()) < 20
    lines = find_warnings(found, summarise(found, index, params, refused=0), index, params)
    (line,) = [line for line in lines if line.startswith("warning: train has")]
    assert "moved" in line and "split.duplicates.similarity: 98" in line and "few" not in line


def test_an_uneven_split_by_the_columns_of_the_file_is_no_error(own):
    groups = [replace(one, group=f"g{i}") for i, one in enumerate(own[:60])]
    joins = [replace(one, group=f"g{i}", parent=own[i + 1].id) for i, one in enumerate(own[60:110])]
    found, _ = divided([*groups, *joins, *own[110:140]], PARAMS)
    assert len(found.pulled) > 20 and found.parts.count("train") < 0.65 / 2 * 140


@pytest.mark.parametrize("bridges", [0, 2])
def test_a_file_of_twelve_records_is_refused_only_if_a_part_is_empty(bridges):
    for seed in range(40):
        few = [example(i, f"{chr(0x4E00 + i)}{chr(0x5E00 + 3 * i)}" * 5) for i in range(12 - bridges)]
        few += [example(i, few[i - 10].instruction[:5] + few[i - 9].instruction[5:]) for i in range(12 - bridges, 12)]
        params = with_duplicates(replace(PARAMS, seed=seed), similarity=50.0)
        try:
            assert len(divide(few, params).parts) == 12
        except DataError as error:
            assert "leave nothing for" in str(error)


def chats(count):
    """Chats under one long system prompt; each question is asked twice, with other marks."""
    system = "You are the assistant of a company with a long name and many rules. " * 30
    rng = random.Random(7)
    asked = ["".join(rng.choices("abcdefghijklmnop ", k=40)) for _ in range(count // 2)]
    return [example(i, asked[i // 2] + "?!"[i % 2], system=system) for i in range(count)]


def test_a_system_prompt_that_all_chats_share_neither_joins_nor_separates_them():
    for few in (60, 300):
        examples = chats(few)
        found, _ = divided(examples, PARAMS)
        assert found.groups == [i - i % 2 for i in range(few)]
    parts = split_examples(examples, PARAMS)
    held_out = HeldOut([*parts["val"], *parts["test"]], PARAMS.duplicates.similarity)
    assert not [one.id for one in parts["train"] if held_out.find(one)]
    leaked = replace(parts["test"][0], id="leaked", instruction=parts["test"][0].instruction + "!")
    assert held_out.find(leaked) is not None


def refusal(examples, params=PARAMS):
    with pytest.raises(DataError) as refused:
        divide(examples, params)
    return str(refused.value).split("; ")[1]


def test_a_setting_that_compares_no_texts_is_never_advised():
    same = [example(i, "one and the same question " * 5) for i in range(60)]
    inputs = [replace(one, input=f"{chr(0x4E00 + i)}{chr(0x5E00 + 3 * i)}" * 5) for i, one in enumerate(same)]
    documents = [replace(one, instruction="And why?", input="", system=one.input) for one in inputs]
    told = [replace(one, history=(Turn("the same beginning " * 40, "", "Yes."),), input="") for one in chats(60)]
    assert "split.duplicates.on: input" in refusal(inputs)
    assert "split.duplicates.on: whole" in refusal(documents)
    assert "split.duplicates.on: whole" in refusal([replace(documents[0], system=""), *documents[1:]])
    assert "split.duplicates.on: instruction" in refusal(told)
    assert "duplicates.on" not in refusal(same)
    assert "duplicates.on" not in refusal([*inputs[:40], *same[:20]])


def test_most_records_without_the_text_to_compare_are_a_warning(own):
    for on, warned in (("input", True), ("prompt", False)):
        params = with_duplicates(PARAMS, on=on)
        examples = [replace(one, input="") for one in own[:50]] + [replace(one, input=one.output) for one in own[50:80]]
        found, index = divided(examples, params)
        lines = find_warnings(found, summarise(found, index, params, refused=0), index, params)
        assert bool([line for line in lines if line.startswith("warning: 5") and "no input" in line]) == warned


def test_a_column_of_groups_is_named_where_it_decides(own):
    params = replace(PARAMS, columns=replace(PARAMS.columns, group="Team"))
    teams = [replace(one, group=f"Team {i % 8}") for i, one in enumerate(own[:200])]
    found, index = divided(teams, params)
    lines = find_warnings(found, summarise(found, index, params, refused=0), index, params)
    assert any('200 records have a column "Team": 8 groups' in line for line in lines)
    assert 'split.columns.group: ""' in refusal([replace(one, group="Team 0") for one in teams], params)


@pytest.mark.skipif(not BOOK.exists(), reason="the folder ../shared/data is not here")
def test_leaks_of_the_books_own_split_are_those_that_are_known():
    rows = json.loads(BOOK.read_text(encoding="utf-8"))
    examples = [Example(id=str(i), **row) for i, row in enumerate(rows)]
    book = replace(PARAMS, strategy="positional", train=0.85, val=0.05, test=0.1)
    found, index = divided(examples, with_duplicates(book, similarity=95.0))
    counts = summarise(found, index, book, refused=0)
    assert counts["test"] == 110
    assert counts["across"]["test"] == {"equal": 2, "near": 10, "turn": 0}
    assert counts["across"]["val"]["equal"] == 4
    equal = [i for i in range(935, 1100) if found.same[i] < 935]
    assert equal == [975, 1034, 1050, 1060, 1068, 1090]
    grouped = with_duplicates(replace(book, strategy="grouped"), similarity=95.0)
    assert summarise(divided(examples, grouped)[0], index, grouped, refused=0)["across"]["groups"] == 0


def test_the_parts_are_in_the_order_of_the_file(own):
    place = {e.id: i for i, e in enumerate(own)}
    for part in PARTS:
        places = [place[e.id] for e in split_examples(own, PARAMS)[part]]
        assert places == sorted(places)


def test_a_dropped_record_of_a_group_that_moves_is_not_said_to_have_moved():
    placer = Placer(PARAMS.fractions, stratify=False)
    for drawn, links, dropped in ((0.99, [], False), (0.5, [0], True), (0.0, [], False), (0.5, [0, 2], True)):
        placer.place("", drawn, links, dropped=dropped)
    assert placer.moved == [Move(record=0, source="train", target="test", joined_by=3)]
