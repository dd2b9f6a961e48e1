import pytest
import torch
import torch.nn.functional as F
from huggingface import as_ours, random_ids, random_llama

from instruct.core.errors import CheckpointError
from instruct.model.decoder import attend_causally
from instruct.model.llama import LlamaConfig, rotate, rotations

SHAPES = [
    {},
    {"num_attention_heads": 4, "num_key_value_heads": 4},
    {"num_attention_heads": 6, "num_key_value_heads": 1},
    {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100000.0},
    {"num_hidden_layers": 4, "intermediate_size": 17, "rms_norm_eps": 1e-3, "rope_theta": 50.0},
]
# transformers and we both take the rotary angles in float32, by two formulas.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 17), (2, 64)])
def test_logits_equal_transformers(tmp_path, shape, rows, length):
    theirs = random_llama(**shape).double()
    ours = as_ours(random_llama(**shape), tmp_path).double()
    ids = random_ids(rows, length)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, **CLOSE)


def test_logits_equal_transformers_in_float32(tmp_path):
    theirs = random_llama()
    ours = as_ours(theirs, tmp_path)
    ids = random_ids(3, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_given_positions_are_used(tmp_path):
    theirs = random_llama().double()
    ours = as_ours(random_llama(), tmp_path).double()
    ids = random_ids(2, 6)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [3, 9, 10, 20, 30, 60]])
    with torch.no_grad():
        logits = ours.logits(ours.hidden_states(ids, positions, attend_causally))
        expected = theirs(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_only_distances_between_positions_matter(tmp_path):
    ours = as_ours(random_llama(max_position_embeddings=512), tmp_path)
    ids = random_ids(1, 9)
    positions = torch.arange(9)[None]
    with torch.no_grad():
        near = ours.hidden_states(ids, positions, attend_causally)
        far = ours.hidden_states(ids, positions + 400, attend_causally)
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


def test_a_quarter_turn_by_hand():
    # One head of four: the pairs are (0, 2) and (1, 3); the first turns by the position itself, in radians.
    config = LlamaConfig(hidden_size=4, num_attention_heads=1, num_key_value_heads=1, rope_theta=10000.0)
    cos, sin = rotations(torch.tensor([[0, 3]]), config)
    turned = rotate(torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 1, 2, 4), (cos, sin))
    angle = torch.tensor(3.0)
    small = torch.tensor(3.0 / 100)
    torch.testing.assert_close(turned[0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(turned[0, 0, 1], torch.stack((angle.cos(), -small.sin(), angle.sin(), small.cos())))


def test_gradients_equal_transformers(tmp_path):
    theirs = random_llama().double()
    ours = as_ours(random_llama(), tmp_path).double()
    ids = random_ids(3, 12)
    # Not by labels=, which would take the loss in float32.
    F.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    F.cross_entropy(ours(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert len(expected) == len(list(ours.parameters())) == 20
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, expected[f"model.{name}"], rtol=1e-4, atol=1e-6, msg=name)


def test_later_tokens_do_not_change_earlier_logits(tmp_path):
    ours = as_ours(random_llama(), tmp_path).double()
    ids = random_ids(1, 10)
    changed = ids.clone()
    changed[0, 6:] = (changed[0, 6:] + 1) % 97
    with torch.no_grad():
        before, after = ours(ids), ours(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 50}, "hidden_size 50, 9 heads and 3 key heads do not divide"),
        ({"num_key_value_heads": 2}, "9 heads and 2 key heads do not divide"),
        ({"hidden_size": 27}, "hidden_size 27"),  # a head of three has no pairs to turn
        ({"num_key_value_heads": 0}, "must be 1 or more"),
        ({"intermediate_size": -1}, "must be 1 or more"),
    ],
)
def test_an_impossible_shape_is_refused(shape, message):
    with pytest.raises(CheckpointError, match=message):
        LlamaConfig(**shape)


@pytest.mark.parametrize("theta", [10000.0, 100000.0])
def test_rotations_without_scaling_keep_their_bits(theta):
    """Those of every checkpoint that was trained before there was a scaling: one division, in this order."""
    config, positions = LlamaConfig(rope_theta=theta), torch.arange(8192)[None]
    powers = torch.arange(0, 64, 2, dtype=torch.float32) / 64
    angles = positions[:, None, :, None].float() / theta**powers
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = rotations(positions, config)
    signs = torch.tensor([-1.0, 1.0]).repeat_interleave(32)
    assert torch.equal(cos, angles.cos()) and torch.equal(sin, signs * angles.sin())
