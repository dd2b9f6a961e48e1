import pytest
import torch
import torch.nn.functional as F
from huggingface import as_ours, random_gpt2, random_ids

from instruct.core.errors import CheckpointError
from instruct.model.checkpoint import empty_model
from instruct.model.decoder import attend_causally
from instruct.model.gpt2 import GPT2Config

SHAPES = [
    {},
    {"n_head": 1, "n_layer": 1, "layer_norm_epsilon": 0.1},
    {"n_head": 12, "n_layer": 3},
    {"n_embd": 40, "n_head": 5, "vocab_size": 131},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 17), (2, 32)])
def test_logits_equal_transformers(tmp_path, shape, rows, length):
    theirs = random_gpt2(**shape).double()
    ours = as_ours(random_gpt2(**shape), tmp_path).double()
    ids = random_ids(rows, length)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-10, atol=1e-10)


def test_logits_equal_transformers_in_float32(tmp_path):
    theirs = random_gpt2()
    ours = as_ours(theirs, tmp_path)
    ids = random_ids(3, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_given_positions_are_used(tmp_path):
    theirs = random_gpt2().double()
    ours = as_ours(random_gpt2(), tmp_path).double()
    ids = random_ids(2, 6)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [3, 9, 10, 20, 30, 31]])
    with torch.no_grad():
        logits = ours.logits(ours.hidden_states(ids, positions, attend_causally))
        expected = theirs(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_gradients_equal_transformers(tmp_path):
    theirs = random_gpt2().double()
    ours = as_ours(random_gpt2(), tmp_path).double()
    ids = random_ids(3, 12)
    # Not by labels=, which would take the loss in float32.
    F.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    F.cross_entropy(ours(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert len(expected) == len(list(ours.parameters())) == 28
    for name, weight in ours.named_parameters():
        gradient = weight.grad.t() if name.endswith(ours.transposed) else weight.grad
        torch.testing.assert_close(gradient, expected[f"transformer.{name}"], rtol=1e-9, atol=1e-12, msg=name)


def test_later_tokens_do_not_change_earlier_logits(tmp_path):
    ours = as_ours(random_gpt2(), tmp_path).double()
    ids = random_ids(1, 10)
    changed = ids.clone()
    changed[0, 6:] = (changed[0, 6:] + 1) % 97
    with torch.no_grad():
        before, after = ours(ids), ours(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize(
    ("width", "layers", "heads", "millions"),
    [(768, 12, 12, 124.4), (1024, 24, 16, 354.8), (1280, 36, 20, 774.0), (1600, 48, 25, 1557.6)],
)
def test_the_four_sizes_have_the_published_number_of_parameters(width, layers, heads, millions):
    model = empty_model(GPT2Config(n_embd=width, n_layer=layers, n_head=heads))
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"n_embd": 50, "n_head": 12}, "n_embd 50 is not a multiple of n_head 12"),
        ({"n_head": 0}, "n_head must"),
        ({"n_layer": -1}, "layers"),
    ],
)
def test_an_impossible_shape_is_refused(shape, message):
    with pytest.raises(CheckpointError, match=message):
        GPT2Config(**shape)
