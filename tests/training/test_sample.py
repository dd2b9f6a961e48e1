import pytest
import torch
from huggingface import as_ours, random_gpt2
from small_training import byte_tokenizer

from instruct.training.sample import Greedy

pytestmark = pytest.mark.usefixtures("one_thread")


def sample_answer(model, tokenizer, prompt, count):
    tokens = Greedy(model, tokenizer.encode(prompt), count).answer(tokenizer.stop_ids)
    return tokenizer.decode(tokens).strip()


@pytest.fixture
def pair(tmp_path):
    theirs = random_gpt2(vocab_size=257, n_positions=24)
    return theirs, as_ours(theirs, tmp_path)


def greedy(theirs, prompt: str, count: int) -> bytes:
    """Token by token over the whole sequence with transformers' model."""
    ids = list(prompt.encode())
    for _ in range(count):
        with torch.no_grad():
            token = int(theirs(torch.tensor([ids])).logits[0, -1].argmax())
        if token == 256:
            break
        ids.append(token)
    return bytes(ids[len(prompt.encode()) :])


@pytest.mark.parametrize("prompt", ["a", "Hello", "What is it?"])
def test_sample_answer_is_the_greedy_one_of_transformers(pair, prompt):
    theirs, ours = pair
    expected = greedy(theirs, prompt, 6).decode(errors="replace").strip()
    assert sample_answer(ours, byte_tokenizer(), prompt, 6) == expected


def test_sample_answer_ends_at_the_end_token(pair):
    theirs, ours = pair
    with torch.no_grad():
        for wte, norm in ((theirs.transformer.wte, theirs.transformer.ln_f), (ours.wte, ours.ln_f)):
            wte.weight[256] = 100 * torch.ones(24)
            norm.weight.zero_()
            norm.bias.fill_(1.0)  # every state is ones, so that the end token always wins
    assert sample_answer(ours, byte_tokenizer(), "Hello", 6) == "" == greedy(theirs, "Hello", 6).decode()


@pytest.mark.parametrize(("length", "room"), [(22, 2), (24, 0), (25, 0), (100, 0)])
def test_sample_answer_takes_the_room_there_is(pair, length, room):
    theirs, ours = pair
    expected = greedy(theirs, "x" * length, room).decode(errors="replace").strip() if room else ""
    assert sample_answer(ours, byte_tokenizer(), "x" * length, 50) == expected


def test_later_answers_are_by_the_weights_of_their_time(pair):
    _, ours = pair
    tokenizer = byte_tokenizer()
    greedy_of = Greedy(ours, tokenizer.encode("Hello"), 6)
    first = greedy_of.answer(tokenizer.stop_ids)
    assert greedy_of.answer(tokenizer.stop_ids) == first
    with torch.no_grad():
        ours.wte.weight.copy_(ours.wte.weight.flip(0))
    again = greedy_of.answer(tokenizer.stop_ids)
    assert again == Greedy(ours, tokenizer.encode("Hello"), 6).answer(tokenizer.stop_ids) != first
