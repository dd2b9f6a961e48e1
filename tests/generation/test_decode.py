import copy
import random
from dataclasses import replace

import pytest
import torch
from generation.conftest import GPT2_SMALL, one_family
from grids import thinned

from instruct.core import progress
from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.generation import decode
from instruct.generation.decode import generate
from instruct.generation.rows import repeats
from instruct.model.checkpoint import random_model
from instruct.text.prompts import TEMPLATES

ALPACA = TEMPLATES["alpaca"]
WORDS = [
    "sun",
    "moon",
    "river",
    "tree",
    "bird",
    "stone",
    "cloud",
    "snow",
    "leaf",
    "rain",
    "wind",
    "fire",
    "song",
    "lake",
    "hill",
    "road",
]


def make_prompts(count, template=ALPACA, seed=0):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 25))) for _ in range(count)]
    return {f"r{i}": template.render(text, text[:20] if i % 2 else "") for i, text in enumerate(texts)}


@pytest.fixture
def answer(small, tokenizer, runtime):
    def run(prompts, params, stop_strings=(), prefix=ALPACA.prefix, **options):
        return generate(
            small,
            tokenizer,
            prompts,
            prefix=prefix,
            stop_strings=stop_strings,
            params=params,
            runtime=runtime,
            **options,
        )

    return run


@pytest.fixture
def logits_seen(monkeypatch):
    """All logits by record, as they are used to choose tokens."""
    seen = {}
    original = decode._choose

    def note(rows, logits):
        for row, one in zip(rows, logits, strict=True):
            seen.setdefault(row.id, []).append(one.clone())
        return original(rows, logits)

    monkeypatch.setattr(decode, "_choose", note)
    return seen


@pytest.mark.parametrize(
    ("small", "temperature"), thinned(["gpt2", "llama"], [0.0, 1.0], together=1), indirect=["small"]
)
def test_batch_size_order_and_neighbours_do_not_change_an_answer(answer, params, temperature):
    prompts = make_prompts(24)
    params = replace(params, temperature=temperature, max_new_tokens=6)
    expected = answer(prompts, params)
    assert len({one.text for one in expected.values()}) > 20, "answers must differ for this test to mean anything"
    shuffled = list(prompts.items())
    random.Random(1).shuffle(shuffled)
    for batch_size, items in ((1, shuffled[:3]), (3, shuffled[:12]), (17, shuffled), (64, shuffled[5:20])):
        got = answer(dict(items), replace(params, batch_size=batch_size))
        assert got == {id_: expected[id_] for id_, _ in items}


def test_logits_are_the_same_to_the_bit_whatever_the_batch(answer, params, logits_seen):
    prompts = make_prompts(20, seed=3)
    params = replace(params, max_new_tokens=6)
    answer(prompts, params)
    expected = {id_: torch.stack(seen) for id_, seen in logits_seen.items()}
    for batch_size, count in ((1, 3), (5, 12), (18, 20)):
        logits_seen.clear()
        answer(dict(list(prompts.items())[:count][::-1]), replace(params, batch_size=batch_size))
        assert all(torch.equal(torch.stack(seen), expected[id_]) for id_, seen in logits_seen.items())
        assert len(logits_seen) == count


@pytest.mark.parametrize(
    ("small", "template"), thinned(["gpt2", "llama"], ["alpaca", "phi3"], together=1), indirect=["small"]
)
def test_greedy_answers_equal_transformers(as_transformers, small, tokenizer, answer, params, template):
    reference = as_transformers(small, tokenizer)
    prompts = make_prompts(12, TEMPLATES[template])
    got = answer(prompts, params, prefix=TEMPLATES[template].prefix)
    for id_, prompt in prompts.items():
        ids = torch.tensor([tokenizer.encode(prompt)])
        out = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_new_tokens,
            do_sample=False,
            eos_token_id=50256,
            pad_token_id=50256,
        )
        expected = [token for token in out[0, ids.shape[1] :].tolist() if token != 50256]
        assert got[id_].text == tokenizer.decode(expected).strip()


def test_real_smollm2_answers_equal_transformers(as_transformers, smollm2, smollm2_tokenizer, runtime, params):
    reference = as_transformers(smollm2, smollm2_tokenizer)
    prompts = {
        "a": ALPACA.render("Name the capital of Portugal."),
        "b": ALPACA.render("Rewrite in the passive voice.", "The wind broke the old fence."),
        "c": ALPACA.render("What is 12 plus 30?"),
    }
    options = {"prefix": ALPACA.prefix, "stop_strings": (), "params": params, "runtime": runtime}
    got = generate(smollm2, smollm2_tokenizer, prompts, **options)
    for id_, prompt in prompts.items():
        ids = torch.tensor([smollm2_tokenizer.encode(prompt)])
        stop = sorted(smollm2_tokenizer.stop_ids)
        out = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
        expected = [token for token in out[0, ids.shape[1] :].tolist() if token not in stop]
        assert got[id_].text == smollm2_tokenizer.decode(expected).strip()


@one_family
def test_the_cache_never_holds_more_than_its_parameter(answer, params, monkeypatch):
    engines = []
    original = decode.Engine.__init__

    def note(self, *arguments, **options):
        original(self, *arguments, **options)
        engines.append(self)

    monkeypatch.setattr(decode.Engine, "__init__", note)
    prompts = make_prompts(16)
    expected = answer(prompts, params)
    plenty = list(map(tokens_held, engines))
    engines.clear()
    for few in (400, 140):  # for several rows, and for one
        assert answer(prompts, replace(params, cache_tokens=few)) == expected
    assert max(map(tokens_held, engines)) <= 400 < max(plenty)
    assert tokens_held(engines[-1]) <= 140


def tokens_held(engine):
    """How many tokens the tensors of a cache have room for."""
    slots, _, capacity, _ = engine.cache.keys[0].shape
    return engine.cache.prefix_keys[0].shape[1] + slots * capacity


@one_family
def test_one_long_prompt_costs_the_short_ones_no_room(answer, params, monkeypatch):
    passes, engines = [], []
    prefill, original = decode.Engine.prefill, decode.Engine.__init__

    def note(self, own_parts, first):
        passes.append([len(part) for part in own_parts])
        return prefill(self, own_parts, first)

    def note_engine(self, *arguments, **options):
        engines.append(options["capacity"])
        original(self, *arguments, **options)

    prompts = {f"short{i}": ALPACA.render(f"word {i}", "") for i in range(80)}
    long = {"long": ALPACA.render("tree " * 180, "")}
    expected = answer(prompts, params) | answer(long, params)
    monkeypatch.setattr(decode.Engine, "prefill", note)
    monkeypatch.setattr(decode.Engine, "__init__", note_engine)
    assert answer(prompts | long, params) == expected
    assert all(len(parts) * max(parts) <= decode.Engine.prefill_tokens for parts in passes)
    assert engines == sorted(engines, reverse=True) and engines[0] > 4 * engines[-1]
    # Where they are of one kind, a pass is still no wider than its bound.
    passes.clear()
    answer({f"r{i}": ALPACA.render("tree " * (60 + i % 90), "") for i in range(60)}, params)
    assert max(len(parts) for parts in passes) > 1
    assert all(len(parts) * max(parts) <= decode.Engine.prefill_tokens for parts in passes)


def test_rows_of_the_output_head_that_stand_for_no_token_are_never_said(tokenizer, params, runtime):
    model = random_model(replace(GPT2_SMALL, vocab_size=50304), seed=1)
    with torch.no_grad():
        model.embedding.weight[50257:] = 50.0
        model.ln_f.bias.fill_(1.0)  # so that the spare rows would win
    for temperature in (0.0, 1.0):
        answers = generate(
            model.eval(), tokenizer, make_prompts(3), prefix="", stop_strings=(), runtime=runtime,
            params=replace(params, temperature=temperature),
        )  # fmt: skip
        assert all(answer.tokens for answer in answers.values())


def test_a_character_that_cannot_be_spelt_is_refused_with_its_record(answer, params, monkeypatch):
    def refuse(self, text):
        raise DataError("the tokenizer has no token for it") if "moon" in text else IndexError

    prompts = {"r7": ALPACA.render("moon", "")}
    monkeypatch.setattr(decode.Tokenizer, "encode", refuse)
    with pytest.raises(DataError, match="record r7: the tokenizer has no token for it"):
        answer(prompts, params)


def test_a_cache_too_small_for_one_prompt_is_refused_with_its_record(answer, params):
    with pytest.raises(ParamsError, match=r"cache_tokens is 20, but record r\d+ needs \d+"):
        answer(make_prompts(3), replace(params, cache_tokens=20))


@one_family
def test_an_answer_ends_before_a_stop_string_that_several_tokens_spell(answer, params, tokenizer):
    prompts = make_prompts(8)
    free = answer(prompts, params)
    id_, text = next((id_, one.text) for id_, one in free.items() if len(one.text) > 12)
    # From the middle of one token to the middle of another.
    stop = text[5:11]
    stopped = answer(prompts, params, stop_strings=[stop])
    assert stopped[id_].text == text[: text.index(stop)].strip()
    assert stopped[id_].stop_reason == "stop_string"
    assert stopped[id_].tokens < params.max_new_tokens or text.endswith(stop)


@one_family
def test_every_way_to_stop_is_recorded(answer, params, tokenizer, small, monkeypatch):
    prompts = make_prompts(20)
    free = answer(prompts, params)
    assert {one.stop_reason for one in free.values()} == {"length"}
    assert {one.tokens for one in free.values()} == {params.max_new_tokens}
    # Make a token that some answers use the end of text.
    answers = {id_: tokenizer.encode(one.text) for id_, one in free.items()}
    common = max((t for ids in answers.values() for t in ids), key=[t for i in answers.values() for t in i].count)
    ended = generate(
        small,
        replace(tokenizer, eos_id=common),
        prompts,
        prefix=ALPACA.prefix,
        stop_strings=(),
        params=params,
        runtime=decode.Runtime(torch.device("cpu"), torch.float32),
    )
    assert "end_of_text" in {one.stop_reason for one in ended.values()}
    for one in ended.values():
        assert (one.stop_reason == "end_of_text") == (one.tokens < params.max_new_tokens)


def test_the_repetition_guard_sees_blocks_and_nothing_else():
    assert repeats([1, 2, 3, 2, 3, 2, 3], 3)
    assert repeats([5, 5, 5], 3)
    assert not repeats([1, 2, 3, 2, 3], 3)
    assert not repeats([2, 3, 2, 3, 2, 3, 4], 3)
    assert not repeats([5, 5], 3)


@one_family
def test_guarded_answers_are_beginnings_of_free_ones(small, tokenizer, runtime, params):
    monotonous = random_model(small.config, seed=1).eval()  # small weights: it says the same word again and again
    prompts = make_prompts(6)
    options = {"prefix": ALPACA.prefix, "stop_strings": (), "runtime": runtime}
    free = generate(monotonous, tokenizer, prompts, params=params, **options)
    guarded = generate(monotonous, tokenizer, prompts, params=replace(params, max_repeats=3), **options)
    assert "repetition" in {one.stop_reason for one in guarded.values()}
    assert all(free[id_].text.startswith(guarded[id_].text) for id_ in prompts)
    assert all((one.tokens < params.max_new_tokens) == (one.stop_reason != "length") for one in guarded.values())


def test_prompts_without_room_are_all_named(answer, params):
    prompts = make_prompts(4) | {"long one": ALPACA.render("word " * 300), "other": ALPACA.render("tree " * 260)}
    with pytest.raises(DataError) as refused:
        answer(prompts, params)
    assert "record long one: its prompt has" in str(refused.value)
    assert "record other: its prompt has" in str(refused.value)
    assert "room for 244" in str(refused.value)


def test_a_truncated_prompt_keeps_both_ends_and_is_counted(answer, params, tokenizer):
    prompt = ALPACA.render("word " * 300)
    got = answer({"long": prompt}, replace(params, over_long="truncate"))["long"]
    ids = tokenizer.encode(prompt)
    assert got.truncated_tokens == len(ids) - (256 - params.max_new_tokens)
    kept = ids[:122] + ids[-122:]
    short = answer({"long": tokenizer.decode(kept)}, params)["long"]
    assert short.text == got.text


@one_family
def test_a_prompt_is_cut_to_no_less_than_its_two_ends(answer, params):
    cut = replace(params, over_long="truncate")
    for room in (1, 0, -9):
        with pytest.raises(DataError, match="record long: its prompt has"):
            answer({"long": "sun moon river"}, replace(cut, max_new_tokens=256 - room), prefix="")
    got = answer({"long": "sun moon river"}, replace(cut, max_new_tokens=254, max_repeats=2), prefix="")["long"]
    assert (got.prompt_tokens, got.truncated_tokens) == (3, 1)


def test_no_prompts_give_no_answers(answer, params):
    assert answer({}, params) == {}


def test_identical_prompts_get_identical_answers(answer, params):
    prompt = ALPACA.render("sun and moon")
    got = answer({"a": prompt, "b": prompt}, params)
    assert got["a"] == got["b"]


@one_family
def test_a_prompt_that_merges_with_the_prefix_is_answered_as_if_alone(answer, params):
    odd = {"odd": ALPACA.prefix.rstrip("\n") + "x", "short": ALPACA.prefix}
    together = answer(make_prompts(5) | odd, params)
    for id_, prompt in odd.items():
        assert together[id_] == answer({id_: prompt}, params)[id_]
        assert together[id_].text == answer({id_: prompt}, params, prefix="")[id_].text


@one_family
def test_each_answer_is_reported_once_when_it_is_complete(answer, params):
    told = []
    got = answer(make_prompts(20), replace(params, batch_size=4), on_answer=lambda id_, one: told.append((id_, one)))
    assert dict(told) == got
    assert len(told) == len(got)


@one_family
def test_progress_is_told_between_answers_too_where_there_is_no_terminal(answer, params, monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_S", 0.0)
    with caplog.at_level("INFO", logger=progress.__name__):
        answer(make_prompts(3), params, known=4)
        told = caplog.messages.copy()
        answer(make_prompts(3), params, known=4, shown=False)
    assert len([line for line in told if "4 of 7 answers" in line]) > 5
    assert any("7 of 7 answers" in line for line in told)
    assert caplog.messages == told


def test_weights_that_give_no_numbers_are_named_not_sampled(small, tokenizer, runtime, params):
    broken = copy.deepcopy(small)
    with torch.no_grad():
        broken.embedding.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="records a: the model's output is not a number"):
        generate(
            broken,
            tokenizer,
            {"a": ALPACA.render("sun")},
            prefix=ALPACA.prefix,
            stop_strings=(),
            params=params,
            runtime=runtime,
        )


@pytest.mark.parametrize("stop", ["", 5, None, b"###"])
def test_stop_string_that_is_none_is_refused_in_words(small, tokenizer, params, runtime, stop):
    with pytest.raises(DataError, match="a stop string must be text that is not empty, is"):
        generate(small, tokenizer, {"a": "Hi"}, prefix="", stop_strings=(stop,), params=params, runtime=runtime)
