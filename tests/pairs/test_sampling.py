"""Pairs made from train: the best answer against the worst, by checks and similarity; and the book's coin."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from instruct.checks.schema import parse_check
from instruct.core.errors import DataError
from instruct.core.params import build
from instruct.core.records import Example, Response, Turn
from instruct.pairs.rewriting import is_polite, pair_rewritings
from instruct.pairs.sampling import Ranking, ask_again, pair_samples
from instruct.pairs.settings import PairsParams
from instruct.servers.base import Reply

PARAMS = build(PairsParams, YAML(typ="safe").load(Path(__file__).parents[2] / "params.yaml")["pairs"], where="pairs")
OWN = replace(PARAMS.on_policy, samples=3)
CLOSED = Example(id="c", instruction="How much is 2 + 2?", input="", output="4", group="sums")
OPEN = Example(id="o", instruction="Say hello.", input="", output="hello there")
CHECKS = {"c": parse_check({"type": "number", "value": 4}, "c"), "o": parse_check({"type": "open"}, "o")}


def similarity(answer, reference):
    """In place of the real one: per cent of the reference's words."""
    words = set(reference.split())
    return 100.0 * len(words & set(answer.split())) / len(words)


def answer(example, *texts, stop="end_of_text"):
    asked = ask_again([example], len(texts))
    return [
        Response(**vars(one), response=text, stop_reason=stop, prompt_tokens=3, response_tokens=2)
        for one, text in zip(asked, texts, strict=True)
    ]


def ranked(rank="both"):
    return Ranking(rank=rank, checks=CHECKS, similarity=similarity)


def test_closed_questions_go_by_truth_and_open_ones_by_similarity():
    answers = answer(CLOSED, "It is 5.", "It is 4.", "4 or 5") + answer(OPEN, "bye", "hello", "hello there you")
    pairs, without = pair_samples([CLOSED, OPEN], answers, ranked(), OWN)
    assert [(one.id, one.output, one.rejected) for one in pairs] == [
        ("c", "It is 4.", "It is 5."),
        ("o", "hello there you", "bye"),
    ]
    assert pairs[0].group == "sums" and pairs[0].origin == "on-policy"
    assert sum(without.values()) == 0


def test_what_gives_no_pair_is_counted_by_its_reason():
    same = pair_samples([CLOSED], answer(CLOSED, "5", "6", "7"), ranked(), OWN)
    assert same == ([], {"unranked": 0, "unended": 0, "same_answers": 0, "no_margin": 1})
    cut = pair_samples([CLOSED], answer(CLOSED, "4", "5", "6", stop="length"), ranked(), OWN)
    assert cut[1]["unended"] == 1
    unknown = pair_samples([OPEN], answer(OPEN, "a", "b", "c"), ranked("checks"), OWN)
    assert unknown[1]["unranked"] == 1
    for repeated in (("4", "4", "4"), ("4", "", " ")):
        assert pair_samples([CLOSED], answer(CLOSED, *repeated), ranked(), OWN)[1]["same_answers"] == 1
    one_ended = answer(CLOSED, "4") + answer(CLOSED, "5", "6", stop="length")
    assert pair_samples([CLOSED], one_ended, ranked(), OWN)[1]["unended"] == 1
    just = replace(OWN, margin=50.0)
    assert len(pair_samples([OPEN], answer(OPEN, "hello", "bye", "no"), ranked(), just)[0]) == 1
    near = replace(OWN, margin=60.0)
    assert pair_samples([OPEN], answer(OPEN, "hello", "bye", "no"), ranked(), near)[1]["no_margin"] == 1


def test_answers_that_ended_with_a_stop_string_have_ended():
    assert len(pair_samples([CLOSED], answer(CLOSED, "4", "5", "6", stop="stop_string"), ranked(), OWN)[0]) == 1


def test_each_sample_has_an_id_and_so_a_seed_of_its_own():
    asked = ask_again([CLOSED, OPEN], 3)
    assert [one.id for one in asked] == ["c#0", "c#1", "c#2", "o#0", "o#1", "o#2"]
    assert all(one.instruction in (CLOSED.instruction, OPEN.instruction) for one in asked)


def test_the_coin_depends_on_record_and_seed_and_both_sides_come():
    examples = [replace(OPEN, id=str(i)) for i in range(200)]
    first = [is_polite(one, 123) for one in examples]
    assert first == [is_polite(one, 123) for one in reversed(examples)][::-1]
    assert first != [is_polite(one, 124) for one in examples]
    assert 70 < sum(first) < 130


def test_the_question_about_a_chats_answer_shows_what_was_said_before_it():
    chat = replace(OPEN, system="Be a pirate.", history=(Turn("My name is Ana.", "", "Ahoy Ana!"),))
    asked = []

    def ask(requests):
        asked.extend(request.messages[0][1] for request in requests)
        return [Reply(text="please")] * len(requests)

    pair_rewritings([chat, OPEN], ask, PARAMS.rewrite, 123)
    assert all(part in asked[0] for part in ("Be a pirate.", "My name is Ana.", "Ahoy Ana!", "Say hello."))
    assert "Task:\nSay hello.\n" in asked[1]


def test_the_polite_one_of_a_rewriting_is_chosen_and_failures_are_counted():
    examples = [replace(OPEN, id=str(i)) for i in range(20)]
    asked = []

    def ask(requests):
        asked.extend(requests)
        replies = [Reply(text="please" if " polite" in one.messages[0][1] else "ugh") for one in requests]
        return [Reply(text="", problem="silent"), *replies[1:]]

    pairs, without = pair_rewritings(examples, ask, PARAMS.rewrite, 123)
    assert (len(asked), len(pairs), without) == (20, 19, {"unanswered": 1})
    kinds = Counter((one.output, one.rejected) for one in pairs)
    assert set(kinds) == {("please", "hello there"), ("hello there", "ugh")}
    with pytest.raises(DataError, match="silent"):
        pair_rewritings(examples, ask, replace(PARAMS.rewrite, max_failed=0.0), 123)
