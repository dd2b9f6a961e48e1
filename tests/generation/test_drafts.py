"""Drafts save steps and change no bit: of a logit, of an answer, of what is drawn after it."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from generation.conftest import GENERATE, one_family
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from instruct.generation.decode import Running, generate
from instruct.generation.drafts import LONGEST, Lookup, deal
from instruct.generation.engine import DRAFTED, Engine
from instruct.generation.rows import Row
from instruct.generation.sampling import make_generator
from instruct.text.prompts import TEMPLATES

ALPACA = TEMPLATES["alpaca"]
TEXTS = ["sun and moon", "river", "a stone in the lake", "sun sun sun sun", "birds"]
PREFIX, OWN = [5, 6, 7], [11, 12, 13, 14]


def followers(text, most):
    """What a search from the end finds: the token after the last earlier place of the newest tokens."""
    drafted = []
    while len(drafted) < most:
        newest = (*text, *drafted)
        for size in range(min(LONGEST, len(newest)), 0, -1):
            ends = [end for end in range(size, len(text)) if tuple(text[end - size : end]) == newest[-size:]]
            if ends:
                drafted.append(text[ends[-1]])
                break
        else:
            break
    return drafted


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 6), st.data())
def test_a_draft_is_what_followed_the_newest_tokens_last(text, most, data):
    lookup = Lookup()
    for end in (data.draw(st.integers(0, len(text))), len(text)):
        lookup.read(text[:end])
    assert lookup.draft(most) == followers(text, most)


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=6), st.integers(0, 15))
def test_spare_rows_are_dealt_evenly_and_all_used(drafts, spare):
    dealt = deal(drafts, spare)
    assert all(draft[: len(part)] == part for draft, part in zip(drafts, dealt, strict=True))
    assert sum(map(len, dealt)) == min(spare, sum(map(len, drafts)))
    short = [len(part) for part, draft in zip(dealt, drafts, strict=True) if len(part) < len(draft)]
    assert not short or max(map(len, dealt)) - min(short) <= 1


def begun(model, tokenizer, count):
    engine = Engine(model, PREFIX, slots=count, capacity=32, vocab_size=tokenizer.vocab_size)
    engine.prefill([[*OWN, place] for place in range(count)], first=0)
    return engine


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lengths", [[4], [2, 1, 3], [3] * 5, [2] * 11])
def test_a_text_at_once_has_the_logits_of_its_tokens_one_by_one(small, tokenizer, lengths, threads):
    torch.set_num_threads(threads)
    draw = random.Random(3)
    texts = [[draw.randrange(tokenizer.vocab_size) for _ in range(length)] for length in lengths]
    with torch.inference_mode():
        for row, text in enumerate(texts):
            one_by_one = begun(small, tokenizer, len(texts))
            expected = []
            for place in range(max(lengths)):
                expected.append(one_by_one.decode([[other[min(place, len(other) - 1)]] for other in texts])[row])
                one_by_one.keep([1] * len(texts))
            at_once = begun(small, tokenizer, len(texts)).decode(texts).split(lengths)[row]
            assert torch.equal(at_once, torch.stack(expected[: len(text)]))


def test_what_was_drafted_in_vain_leaves_nothing_behind(small, tokenizer):
    with torch.inference_mode():
        plain, drafting = (begun(small, tokenizer, 2) for _ in range(2))
        plain.decode([[1], [2]])
        drafting.decode([[1, 8, 9, 10], [2, 11]])
        for engine in (plain, drafting):
            engine.keep([1, 1])
        assert torch.equal(drafting.decode([[3], [4]]), plain.decode([[3], [4]]))


@pytest.fixture
def seen(monkeypatch):
    """The tokens of each answer and the number of steps since it was last set to 0."""
    seen = SimpleNamespace(tokens={}, steps=0)
    take, decode = Row.take, Engine.decode

    def noted(self, token, tokenizer):
        take(self, token, tokenizer)
        seen.tokens[self.id] = [*self.answer]

    def counted(self, texts):
        seen.steps += 1
        return decode(self, texts)

    monkeypatch.setattr(Row, "take", noted)
    monkeypatch.setattr(Engine, "decode", counted)
    return seen


def guess_right(known, vocab_size, share):
    """Drafts from the tokens of known answers, of which a `share` is right."""
    draw = random.Random(1)

    def draft(row, most):
        done = len(row.answer)
        right = known[row.id][done : done + min(most, row.params.max_new_tokens - done - 1)]
        return [token if draw.random() < share else draw.randrange(vocab_size) for token in right]

    return draft


@one_family
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("few", [1, 3, 5])
def test_no_draft_changes_an_answer_however_right_it_is(small, tokenizer, runtime, monkeypatch, seen, temperature, few):
    params = replace(GENERATE, temperature=temperature, batch_size=few, max_repeats=3)

    def answers_and_steps(draft, **changes):
        monkeypatch.setattr(Row, "draft", draft)
        seen.steps = 0
        prompts = {text: ALPACA.render(text) for text in TEXTS}
        options = {"prefix": ALPACA.prefix, "stop_strings": (), "params": params, "runtime": runtime, **changes}
        return generate(small, tokenizer, prompts, **options), seen.steps

    expected, plain = answers_and_steps(lambda row, most: [])
    known = dict(seen.tokens)
    for share in (0.0, 0.5, 1.0):
        got, steps = answers_and_steps(guess_right(known, tokenizer.vocab_size, share))
        assert got == expected
        assert steps < plain or share < 1 or few > DRAFTED
    stop = tokenizer.decode(known["river"][4:6])
    stopped = {"stop_strings": (stop,)}
    expected, _ = answers_and_steps(lambda row, most: [], **stopped)
    assert answers_and_steps(guess_right(known, tokenizer.vocab_size, 1.0), **stopped)[0] == expected
    assert expected["river"].stop_reason == "stop_string"


class Circle:
    """A model that says the tokens 0 to 4 in turn."""

    block_size, device, blocks = 256, torch.device("cpu"), nn.ModuleList()

    def hidden_states(self, input_ids, positions, attend):
        return input_ids[..., None]

    def logits(self, hidden):
        return nn.functional.one_hot((hidden[:, 0] + 1) % 5, 50257)


def test_an_answer_that_repeats_itself_takes_a_step_for_all_rows_of_a_draft(tokenizer, runtime, seen):
    params = replace(GENERATE, max_new_tokens=100)
    options = {"prefix": "", "stop_strings": (), "params": params, "runtime": runtime}
    generate(Circle(), tokenizer, {"sun": "sun"}, **options)
    in_turn = 5  # the first comes with the prompt, the next ones have not been said before
    assert len(seen.tokens["sun"]) == 100
    assert seen.steps == in_turn + (100 - 1 - in_turn + DRAFTED - 1) // DRAFTED


def test_scores_are_those_of_the_tokens_that_were_taken(small, tokenizer, runtime, monkeypatch):
    rows = {}
    for name, draft in {"plain": lambda row, most: [], "drafted": lambda row, most: [7, 8, 9][:most]}.items():
        monkeypatch.setattr(Row, "draft", draft)
        row = Row(
            id="0",
            prompt_tokens=7,
            truncated_tokens=0,
            own=OWN,
            generator=make_generator(7, "0"),
            params=GENERATE,
            best=2,
        )
        running = Running(Engine(small, PREFIX, slots=1, capacity=32, vocab_size=tokenizer.vocab_size), tokenizer)
        with torch.inference_mode():
            running.join([row])
            while not row.stop_reason:
                running.step()
        rows[name] = row
    assert rows["drafted"].scores == rows["plain"].scores
    assert len(rows["plain"].scores) == len(rows["plain"].answer)
