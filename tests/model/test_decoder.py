import pytest
import torch

from instruct.model.checkpoint import random_model
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
