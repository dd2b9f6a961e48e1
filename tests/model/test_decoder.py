import pytest
import torch

from instruct.model.checkpoint import random_model
from instruct.model.decoder import KVCache
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig

IDS = [3, 14, 15, 9, 26, 5, 35]


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    if request.param == "gpt2":
        return random_model(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=4), 0).double()
    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    return random_model(LlamaConfig(vocab_size=40, max_position_embeddings=32, **shape, **heads), 0).double()


def run(model, cache, rows, padding):
    cache.begin(len(rows[0]))
    places = torch.arange(cache.length, cache.length + len(rows[0]))
    positions = (places - torch.tensor(padding)[:, None]).clamp(min=0)
    hidden = model.hidden_states(torch.tensor(rows), positions, cache)
    cache.end()
    return model.logits(hidden)


def test_cached_decoding_equals_full_forward(model):
    full = model(torch.tensor([IDS]))
    cache = KVCache([0], len(IDS), model.device)
    pieces = [run(model, cache, [IDS[:3]], [0])] + [run(model, cache, [[token]], [0]) for token in IDS[3:]]
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, atol=1e-6, rtol=1e-6)


def test_left_padding_does_not_change_a_row(model):
    cache = KVCache([0, 3], len(IDS) + 1, model.device)
    rows = [IDS, [0, 0, 0, *IDS[:4]]]
    first = run(model, cache, rows, [0, 3])
    second = run(model, cache, [[7], [8]], [0, 3])
    alone = model(torch.tensor([[*IDS[:4], 8]]))[0]
    torch.testing.assert_close(first[1, 3:], alone[:4], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(second[1, 0], alone[4], atol=1e-6, rtol=1e-6)


def test_what_stands_in_the_padding_does_not_matter(model):
    results = []
    for filler in (0, 39):
        cache = KVCache([2], 5, model.device)
        results.append(run(model, cache, [[filler, filler, *IDS[:3]]], [2])[0, 2:])
    assert torch.equal(*results)


def test_the_future_does_not_change_the_past(model):
    one, other = model(torch.tensor([[1, 2, 3, 4]])), model(torch.tensor([[1, 2, 3, 39]]))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3], other[:, 3])


def test_recomputed_activations_give_the_same_gradients(model):
    gradients = []
    for model.recompute in (False, True):
        model.train().zero_grad()
        model(torch.tensor([IDS])).square().mean().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
