import json
from dataclasses import replace

import pytest
from generation.conftest import one_family
from grids import thinned

from instruct.core.errors import DataError
from instruct.core.fingerprint import Fingerprint
from instruct.core.records import Example, Turn
from instruct.generation.answer import answer_examples
from instruct.generation.journal import Journal
from instruct.generation.shards import Shards
from instruct.generation.vote import majority, sample_ids
from instruct.text.prompts import TEMPLATES

EXAMPLES = [
    Example(id=f"e{i}", instruction=text, input="", output="x", kind="k")
    for i, text in enumerate(["sun", "moon and stars", "a long river of stone", "leaf", "rain on the road", "fire"])
]
RUN = Fingerprint(parts={"params": "1"})


@pytest.fixture
def respond(small, tokenizer, runtime, tmp_path):
    def run(params, examples=EXAMPLES, fingerprint=RUN, path=tmp_path / "journal"):
        journal = Journal(path, fingerprint)
        template = TEMPLATES["alpaca"]
        options = {"template": template, "params": params, "runtime": runtime, "journal": journal}
        return answer_examples(small, tokenizer, examples, **options), journal

    return run


def test_responses_keep_the_record_and_its_order(respond, params):
    responses, _ = respond(params)
    assert [(r.id, r.instruction, r.output, r.kind) for r in responses] == [
        (e.id, e.instruction, e.output, e.kind) for e in EXAMPLES
    ]
    assert all(r.response_tokens == params.max_new_tokens for r in responses if r.stop_reason == "length")


@pytest.mark.parametrize(
    ("small", "temperature", "cut"), thinned(["gpt2", "llama"], [0.0, 1.0], [0, 3, 40]), indirect=["small"]
)
def test_a_run_that_was_killed_goes_on_to_the_same_responses(respond, params, tmp_path, temperature, cut):
    params = replace(params, temperature=temperature)
    whole, journal = respond(params)
    lines = journal.path.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len(EXAMPLES)
    # Killed after three answers, in the middle of writing the fourth.
    journal.path.write_text("".join(lines[:4]) + lines[4][:cut])
    again, journal = respond(params)
    assert again == whole
    assert len(journal.path.read_text().splitlines()) == 1 + len(EXAMPLES)


def test_known_answers_are_taken_from_the_journal_not_computed(respond, params):
    _, journal = respond(params)
    changed = journal.path.read_text().splitlines()
    entry = json.loads(changed[1])
    entry["answer"]["text"] = "from the journal"
    journal.path.write_text("\n".join([changed[0], json.dumps(entry), *changed[2:]]) + "\n")
    responses, _ = respond(params)
    assert [r.response for r in responses if r.id == entry["id"]] == ["from the journal"]


def test_the_journal_of_another_run_is_refused_in_words(respond, params):
    whole, _ = respond(params)
    other, journal = respond(params, fingerprint=Fingerprint(parts={"params": "2"}))
    assert "of another run (params differ)" in journal.refusal
    assert other == whole


def test_a_damaged_journal_is_refused_in_words(respond, params):
    whole, journal = respond(params)
    journal.path.write_text("not json\n")
    again, journal = respond(params)
    assert "damaged" in journal.refusal
    assert again == whole


def test_several_answers_vote_and_all_are_kept(respond, params, tmp_path):
    params = replace(params, num_samples=3, temperature=1.0)
    responses, _ = respond(params)
    for response in responses:
        assert len(response.samples) == 3
        assert response.response == response.samples[majority(response.samples)]
    assert len({sample for response in responses for sample in response.samples}) > 6
    alone, _ = respond(params, examples=EXAMPLES[2:3], path=tmp_path / "another journal")
    assert alone == responses[2:3]


def test_all_answers_of_a_vote_are_counted_in_tokens(respond, params):
    responses, journal = respond(replace(params, num_samples=3, temperature=1.0))
    entries = [json.loads(line) for line in journal.path.read_text().splitlines()[1:]]
    tokens = {entry["id"]: entry["answer"]["tokens"] for entry in entries}
    for one in responses:
        assert one.response_tokens == sum(tokens[id_] for id_ in sample_ids(one.id, 3)) > params.max_new_tokens


def test_the_majority_ignores_case_and_punctuation_and_prefers_the_first():
    assert majority(["Lyon", "Paris.", "paris"]) == 1
    assert majority(["a", "b", "B!", "A?"]) == 0
    assert majority(["5", "-5", "-5."]) == 1
    assert majority(["only"]) == 0


def test_one_answer_has_the_record_s_own_id():
    assert sample_ids("x", 1) == ["x"]
    assert len(set(sample_ids("x", 4))) == 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_cover_every_item_once(world_size):
    items = list(range(11))
    parts = [Shards(rank, world_size).share(items) for rank in range(world_size)]
    assert sorted(item for part in parts for item in part) == items


CHAT = replace(EXAMPLES[0], history=(Turn("rain " * 40, "", "leaf " * 40), Turn("fire", "wood", "stone")))


@pytest.fixture
def ask(respond, tmp_path):
    """The response to one record, whatever was asked before."""

    def run(params, example):
        path = tmp_path / f"journal-{len(list(tmp_path.iterdir()))}"
        return respond(params, [example], path=path)[0][0]

    return run


def test_the_last_turn_is_asked_with_the_history_before_it(ask, params, tokenizer):
    told, alone = ask(params, CHAT), ask(params, EXAMPLES[0])
    first = tokenizer.encode(TEMPLATES["alpaca"].render("rain " * 40) + "leaf " * 40)
    assert told.prompt_tokens > len(first) > alone.prompt_tokens
    assert (told.history, told.output, told.truncated_tokens) == (CHAT.history, CHAT.output, 0)
    assert told.response != alone.response


@one_family
@pytest.mark.parametrize("kept", [0, 1])
def test_a_chat_without_room_loses_its_oldest_turns_whole(ask, params, small, kept):
    chat = replace(CHAT, instruction="sun " * (60 if kept else 90))  # so that the answers are short
    shorter = replace(chat, history=chat.history[2 - kept :])
    whole, expected = ask(params, chat), ask(params, shorter)
    tight = replace(params, max_new_tokens=small.block_size - expected.prompt_tokens, max_repeats=2)
    with pytest.raises(DataError, match="record e0: "):
        ask(tight, chat)
    response, same = (ask(replace(tight, over_long="truncate"), one) for one in (chat, shorter))
    assert (response.response, response.stop_reason) == (same.response, same.stop_reason)
    assert response.prompt_tokens == whole.prompt_tokens
    assert response.truncated_tokens == whole.prompt_tokens - expected.prompt_tokens > 0
    assert response.history == chat.history
