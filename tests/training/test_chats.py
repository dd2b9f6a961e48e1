"""Chats of several turns: which tokens are learnt from, and that nothing else changes with their number."""

from dataclasses import replace

import pytest
import torch
from small_training import byte_tokenizer, loss_and_gradients, make_batch

from instruct.core.errors import DataError
from instruct.core.records import Example, Turn
from instruct.model.checkpoint import random_model
from instruct.model.gpt2 import GPT2Config
from instruct.text.encoding import encode_prompt, with_end_of
from instruct.text.prompts import TEMPLATES, PromptParams
from instruct.text.tokenizer import END_OF_TEXT, make_tokenizer
from instruct.training.collate import target_weights
from instruct.training.encode import count_tokens, encode_all, encode_example
from instruct.training.loss import loss_sum
from instruct.training.throughput import Stopwatch

pytestmark = pytest.mark.usefixtures("one_thread")

START, STOP = 257, 258
CHAT = Example(
    id="c",
    instruction="So?",
    input="",
    output="Ok",
    system="S",
    history=(Turn("Hi", "", "Yo"), Turn("A", "b", "No")),
)


def chat_tokenizer():
    """A token for each byte, and those of ChatML."""
    special = {END_OF_TEXT: 256, "<|im_start|>": START, "<|im_end|>": STOP}
    tokens = [*(bytes([value]) for value in range(256)), *(name.encode() for name in special)]
    return with_end_of(TEMPLATES["chatml"], make_tokenizer(tokens, special, "gpt2", eos_id=256))


def small_model(**changes):
    shape = {"vocab_size": 259, "n_positions": 512, "n_embd": 24, "n_layer": 2, "n_head": 4, "eos_token_id": 256}
    model = random_model(GPT2Config(**{**shape, **changes}), seed=4)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 5
    return model.double().eval()


def supervised(encoded, tokenizer):
    """Each token that is learnt, in order, from the weights of targets alone."""
    weights = target_weights(encoded, 0.0)
    return [tokenizer.decode([id_]) for id_, weight in zip(encoded.ids[1:], weights, strict=True) if weight]


def test_the_mask_of_a_chat_of_three_turns_token_by_token():
    tokenizer = chat_tokenizer()
    encoded = encode_example(CHAT, TEMPLATES["chatml"], tokenizer)
    s, e = "<|im_start|>", "<|im_end|>"
    listed = [
        (0, [s, *"system\n", "S", e, "\n"]),
        (0, [s, *"user\n", "H", "i", e, "\n", s, *"assistant\n"]),
        (1, ["Y", "o", e]),
        (0, ["\n", s, *"user\n", "A", "\n", "b", e, "\n", s, *"assistant\n"]),
        (1, ["N", "o", e]),
        (0, ["\n", s, *"user\n", "S", "o", "?", e, "\n", s, *"assistant\n"]),
        (1, ["O", "k", e]),
    ]
    tokens = [(token, weight) for weight, part in listed for token in part]
    assert [tokenizer.decode([id_]) for id_ in encoded.ids] == [token for token, _ in tokens]
    assert target_weights(encoded, 0.0) == [float(weight) for _, weight in tokens][1:]
    assert target_weights(encoded, 0.25) == [weight or 0.25 for _, weight in tokens][1:]
    assert count_tokens([encoded]) == (len(tokens), 9)
    last = encode_example(CHAT, TEMPLATES["chatml"], tokenizer, turns="last")
    assert (last.ids, supervised(last, tokenizer)) == (encoded.ids, ["O", "k", e])


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_answers_and_what_ends_them_are_learnt(template):
    tokenizer = byte_tokenizer()
    encoded = encode_example(CHAT, TEMPLATES[template], tokenizer)
    assert "".join(supervised(encoded, tokenizer)) == "".join(f"{turn.output}{END_OF_TEXT}" for turn in CHAT.turns)
    plain = replace(CHAT, system="")
    assert encode_example(plain, TEMPLATES[template], tokenizer).ids.count(256) == 3


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_is_a_chat_of_one_turn(template):
    tokenizer, chosen = chat_tokenizer(), TEMPLATES[template]
    single = Example(id="s", instruction="Name the capital.", input="Peru", output="Lima")
    encoded = encode_example(single, chosen, tokenizer)
    assert encoded.later_prompts == () and encoded == encode_example(single, chosen, tokenizer, turns="last")
    assert list(encoded.ids[: encoded.prompt_length]) == encode_prompt(tokenizer, chosen.prompt(single.turns))


@pytest.mark.parametrize(("batching", "flat"), [("padded", None), ("packed", False), ("packed", True)])
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_of_a_chat_is_the_sum_of_its_turns_with_their_histories(template, batching, flat):
    tokenizer, model = chat_tokenizer(), small_model()
    chats = [CHAT, replace(CHAT, id="d", history=CHAT.history[:1]), replace(CHAT, id="e", history=(), system="")]
    whole = [encode_example(one, TEMPLATES[template], tokenizer) for one in chats]
    singles = [
        encode_example(
            replace(one, **one.turns[i]._asdict(), history=one.turns[:i], id=f"{one.id}{i}"),
            TEMPLATES[template], tokenizer, turns="last",
        )
        for one in chats
        for i in range(len(one.turns))
    ]  # fmt: skip
    assert len(singles) == 6
    with torch.no_grad():
        apart = sum(float(loss_sum(model, make_batch([single], "padded", pad_id=0))) for single in singles)
        together = float(loss_sum(model, make_batch(whole, batching, pad_id=0, flat=flat)))
    assert together == pytest.approx(apart, rel=1e-5)
    loss, gradients = loss_and_gradients(model, make_batch(whole, batching, pad_id=0, flat=flat))
    expected, theirs = loss_and_gradients(model, make_batch(singles, "padded", pad_id=0))
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_a_chats_history_is_computed_once():
    tokenizer = chat_tokenizer()
    encoded = encode_example(CHAT, TEMPLATES["chatml"], tokenizer)
    assert make_batch([encoded], "packed").input_ids.numel() == len(encoded.ids) - 1
    bare = PromptParams(template="chatml", system="Always the same, however long it is.").chosen
    two = [encode_example(Example(id=q, instruction=q, input="", output="x"), bare, tokenizer) for q in "ab"]
    shared = len(encode_prompt(tokenizer, bare.prefix_pieces))
    assert make_batch(two, "packed").input_ids.numel() == 2 * (len(two[0].ids) - 1) - shared


def lengths(count):
    """Tokens of the last `count` turns of the chat."""
    return len(
        encode_example(replace(CHAT, history=CHAT.turns[3 - count : 2]), TEMPLATES["alpaca"], byte_tokenizer()).ids
    )


@pytest.mark.parametrize(("most", "kept"), [(lengths(3), 3), (lengths(3) - 1, 2), (lengths(2) - 1, 1)])
def test_a_long_chat_loses_its_oldest_turns_whole_and_is_counted(most, kept):
    tokenizer, options = byte_tokenizer(), {"turns": "all", "max_length": most}
    fitted, truncated, dropped = encode_all(
        [CHAT], TEMPLATES["alpaca"], tokenizer, over_long="truncate", **options
    )  # fmt: skip
    assert (truncated, dropped) == (int(kept < 3), 0)
    shorter = encode_example(replace(CHAT, history=CHAT.turns[3 - kept : 2]), TEMPLATES["alpaca"], tokenizer)
    assert fitted == [replace(shorter, dropped_turns=3 - kept)]
    if kept < 3:
        with pytest.raises(DataError, match="record c: "):
            encode_all([CHAT], TEMPLATES["alpaca"], tokenizer, over_long="raise", **options)
        short = replace(CHAT, id="s", history=(), system="")
        fitted, *counts = encode_all([CHAT, short], TEMPLATES["alpaca"], tokenizer, over_long="drop", **options)
        assert ([one.id for one in fitted], counts) == (["s"], [0, 1])


def test_the_last_turn_alone_loses_the_end_of_its_answer():
    tokenizer, long = byte_tokenizer(), replace(CHAT, output="x" * 500)
    ((fitted,), truncated, _) = encode_all(
        [long], TEMPLATES["phi3"], tokenizer, turns="all", max_length=60, over_long="truncate"
    )
    assert (len(fitted.ids), fitted.dropped_turns, truncated) == (60, 2, 1)
    assert set(supervised(fitted, tokenizer)) == {"x", END_OF_TEXT}


def test_tokens_of_all_answers_count_in_speed():
    encoded = encode_example(CHAT, TEMPLATES["chatml"], chat_tokenizer())
    stopwatch = Stopwatch()
    with stopwatch.phase("train", examples=[encoded]):
        pass
    assert stopwatch.response_tokens == 9
