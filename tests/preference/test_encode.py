"""Pairs to token ids: borders, what is too long, what teaches nothing."""

from pathlib import Path
from typing import Any

import pytest
from small_preference import prefer_params
from small_training import byte_tokenizer

from instruct.core.errors import DataError
from instruct.core.pairs import Pair
from instruct.core.records import Turn
from instruct.preference.encode import FittedPairs, encode_pair, fit_pairs
from instruct.text.prompts import TEMPLATES
from instruct.training.encode import encode_example, fit_length

TOKENIZER, PHI3 = byte_tokenizer(), TEMPLATES["phi3"]
FILE = Path("data/pairs/train.json")


def pair(id_: str = "a", chosen: str = "Yes.", rejected: str = "No!", **changes: Any) -> Pair:
    values = {"instruction": "Say it.", "input": "", **changes}
    return Pair(id=id_, output=chosen, rejected=rejected, **values)


def fit(*pairs: Pair, **changes: Any) -> FittedPairs:
    return fit_pairs(pairs, PHI3, TOKENIZER, prefer_params(**changes).fit, room=10_000, path=FILE)


@pytest.mark.parametrize("template", TEMPLATES)
def test_sides_share_the_prompt_and_end_as_when_fine_tuned(template):
    one = pair(history=(Turn("Hi.", "", "Hello."),), input="now")
    found = encode_pair(one, TEMPLATES[template], TOKENIZER)
    prompt = found.chosen.ids[: found.chosen.prompt_length]
    assert prompt == found.rejected.ids[: found.rejected.prompt_length]
    for side, encoded, answer in zip(one.sides, found.sides, ("Yes.", "No!"), strict=True):
        assert encoded.ids == encode_example(side, TEMPLATES[template], TOKENIZER).ids
        assert encoded.ids[encoded.prompt_length :] == (*TOKENIZER.encode(answer), TOKENIZER.eos_id)
        assert encoded.response_tokens == len(answer) + 1 and encoded.ids.count(TOKENIZER.eos_id) == 2


def test_pair_that_does_not_fit_is_refused_with_file_and_id():
    long = pair("long", rejected="x" * 60)
    with pytest.raises(DataError, match=r"^data/pairs/train\.json: pair long: \d+ tokens, more than 64\n1 pairs are"):
        fit(pair(), long)
    dropped = fit(pair(), long, over_long="drop")
    assert ([one.id for one in dropped.pairs], dropped.dropped, dropped.truncated) == (["a"], 1, 0)


def test_cut_answer_keeps_its_end_token_and_is_never_empty():
    found = fit(pair(rejected="x" * 60), over_long="truncate")
    (one,), cut = found.pairs, found.pairs[0].rejected
    assert found.truncated == 1 and one.chosen.ids[-1] == cut.ids[-1] == TOKENIZER.eos_id and len(cut.ids) == 64
    whole = encode_pair(pair(rejected="x" * 60), PHI3, TOKENIZER)
    assert list(one.sides) == fit_length(whole.sides, 64, "truncate")[0]  # as fine-tuning cuts each of them
    with pytest.raises(DataError, match="pair a: its prompt of 87 tokens leaves no response"):
        fit(pair(instruction="y" * 63), over_long="truncate")


def test_chat_that_is_too_long_loses_the_same_turns_on_both_sides():
    chat = pair(rejected="x" * 20, history=(Turn("One.", "", "1"), Turn("Two.", "", "2")))
    found = fit(chat, over_long="truncate", max_length=90)
    one = found.pairs[0]
    assert found.truncated == 1 and one.chosen.dropped_turns == one.rejected.dropped_turns == 1
    assert one.chosen.ids[: one.chosen.prompt_length] == one.rejected.ids[: one.rejected.prompt_length]
    assert len(encode_pair(chat, PHI3, TOKENIZER).chosen.ids) > 90


def test_a_chat_that_is_too_long_keeps_what_was_said_last():
    chat = pair(history=(Turn("One.", "", "1"), Turn("Two.", "", "2")))
    short = encode_pair(pair(history=chat.history[1:]), PHI3, TOKENIZER)
    found = encode_pair(chat, PHI3, TOKENIZER, short.chosen.token_count)
    assert [side.ids for side in found.sides] == [side.ids for side in short.sides]


def test_a_chat_is_cut_by_its_longer_side_whichever_that_is():
    for chosen, rejected in (("Yes.", "x" * 20), ("x" * 20, "No!")):
        chat = pair(chosen=chosen, rejected=rejected, history=(Turn("One.", "", "1"), Turn("Two.", "", "2")))
        longest = min(side.token_count for side in encode_pair(chat, PHI3, TOKENIZER).sides)
        found = encode_pair(chat, PHI3, TOKENIZER, longest)
        assert [side.dropped_turns for side in found.sides] == [1, 1]
        assert max(side.token_count for side in found.sides) <= longest


def test_pair_of_equal_answers_is_left_out_and_counted():
    found = fit(pair("a"), pair("b", "Same.", "Same."))
    assert ([one.id for one in found.pairs], found.identical) == (["a"], 1)
    with pytest.raises(DataError, match=r"train\.json: the chosen answer equals the rejected one in every pair"):
        fit(pair("a", "1", "1"), pair("b", "2", "2"))


def test_answers_that_are_the_same_once_they_are_cut_are_left_out():
    found = fit(pair("a"), pair("b", "x" * 60 + "y", "x" * 60 + "z"), over_long="truncate")
    assert [one.id for one in found.pairs] == ["a"] and (found.identical, found.truncated) == (1, 0)


def test_no_pairs_are_refused():
    with pytest.raises(DataError, match=r"train\.json: holds no pairs; .* run `dvc repro pairs`"):
        fit()
    with pytest.raises(DataError, match=r"no pair fits into 64 tokens"):
        fit(pair(rejected="x" * 60), over_long="drop")
