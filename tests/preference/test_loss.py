"""The loss of pairs and its gradients: by hand, packed against padded, and step 0."""

import math
from dataclasses import replace

import pytest
import torch
from grids import thinned
from small_preference import batch_of, prefer_params, random_pairs, with_reference
from small_training import END, FAMILIES, lora_params, small_model

from instruct.model.lora import add_lora
from instruct.preference.collate import collate_pairs, pair_row_size
from instruct.preference.encode import EncodedPair
from instruct.preference.loss import PairLoss, describe, log_probs, pair_losses, sums_of
from instruct.training.packing import grow_tree

pytestmark = pytest.mark.usefixtures("one_thread")

families = pytest.mark.parametrize("family", FAMILIES)
LOSSES = [
    {},
    {"label_smoothing": 0.2},
    {"loss": "ipo"},
    {"loss": "sigmoid_norm", "beta": 5.0},
    {"sft_weight": 0.7},
]


def by_hand(model, side):
    """The log-prob of an answer with its end token by one forward pass over it alone, in double precision."""
    ids = torch.tensor([side.ids])
    scores = model(ids)[0].double().log_softmax(-1)
    return sum(scores[place - 1, side.ids[place]] for place in range(side.prompt_length, len(side.ids)))


def loss_of(model, pairs, batching, flat=None, **settings):
    """The mean loss, what is told beside it, and every gradient."""
    model.zero_grad(set_to_none=True)
    module = PairLoss(model, prefer_params(**settings))
    model.lookup_in_place = False
    loss = module(batch_of(pairs, batching, flat)) / len(pairs)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return float(loss.detach()), module.take_measures(list), gradients


def moved(model):
    """The model a little way from where the reference was taken."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    return model


@families
@pytest.mark.parametrize(("batching", "flat"), [("packed", False), ("packed", True), ("padded", None)])
def test_log_probs_are_sums_with_the_end_token_and_independent_of_the_batch(family, batching, flat):
    model, pairs = small_model(family), random_pairs(7)
    with torch.no_grad():
        found = log_probs(model, batch_of(pairs, batching, flat)).tolist()
        expected = [float(by_hand(model, side)) for place in (0, 1) for side in [pair.sides[place] for pair in pairs]]
    assert found == pytest.approx(expected, rel=1e-5)


def test_end_token_is_in_the_sum_once():
    """A model that never ends an answer loses just what the end token costs."""
    model, pair = small_model("gpt2"), random_pairs(1)[0]
    assert pair.chosen.ids.count(END) == 1 and pair.chosen.ids[-1] == END
    without = replace(pair, chosen=replace(pair.chosen, ids=pair.chosen.ids[:-1]))
    with torch.no_grad():
        whole, cut = (float(log_probs(model, batch_of([one]))[0]) for one in (pair, without))
        end = float(model(torch.tensor([pair.chosen.ids]))[0, -2].log_softmax(-1)[END])
    assert whole - cut == pytest.approx(end, rel=1e-4)


@pytest.mark.parametrize(("family", "batching", "count"), thinned(list(FAMILIES), ["packed", "padded"], [1, 3, 7]))
def test_loss_at_step_0_is_ln_2_to_the_bit(family, batching, count):
    """Not 6 x ln 2, as with boundaries that are off by one; and rewards of nothing."""
    model, pairs = small_model(family), random_pairs(count)
    batch = batch_of(pairs, batching)
    with torch.no_grad():
        batch = replace(batch, reference=log_probs(model, batch))
        module = PairLoss(model, prefer_params())
        assert float(module(batch)) / count == math.log(2)
    told = module.take_measures(list)
    assert (told["margin"], told["accuracy"], told["kl"]) == (0.0, 0.5, 0.0)


@pytest.mark.parametrize(("settings", "family"), thinned(LOSSES, list(FAMILIES), together=1))
def test_packed_equals_padded(family, settings):
    pairs = with_reference(random_pairs(6), small_model(family))
    model = moved(small_model(family))
    padded_loss, padded_told, padded = loss_of(model, pairs, "padded", **settings)
    for flat in (False, True):
        loss, told, gradients = loss_of(model, pairs, "packed", flat, **settings)
        assert loss == pytest.approx(padded_loss, rel=1e-5)
        assert told == pytest.approx(padded_told, rel=1e-4, abs=1e-5)
        assert gradients.keys() == padded.keys() and len(gradients) == len(list(model.parameters()))
        for name, gradient in padded.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("settings", "family"), thinned(LOSSES, list(FAMILIES), together=1))
def test_loss_and_gradients_by_hand(family, settings):
    pairs = with_reference(random_pairs(4), small_model(family))
    model, params = moved(small_model(family)), prefer_params(**settings)
    found, told, gradients = loss_of(model, pairs, "packed", **settings)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for pair in pairs:
        policy = [by_hand(model, side) for side in pair.sides]
        tokens = [len(side.ids) - side.prompt_length for side in pair.sides]
        ratios = [a - b for a, b in zip(policy, pair.reference, strict=True)]
        if params.loss != "sigmoid":
            ratios = [ratio / count for ratio, count in zip(ratios, tokens, strict=True)]
        margin, smoothing = ratios[0] - ratios[1], params.label_smoothing
        if params.loss == "ipo":
            one = (margin - 1 / (2 * params.beta)) ** 2
        else:
            right = torch.sigmoid(params.beta * margin)
            one = -(1 - smoothing) * right.log() - smoothing * (1 - right).log()
        total = total + one - params.sft_weight * policy[0] / tokens[0]
    (total / len(pairs)).backward()
    assert found == pytest.approx(float(total.detach()) / len(pairs), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert told["chosen_tokens"] == sum(p.chosen.response_tokens for p in pairs) / len(pairs)


def test_measures_by_hand():
    """Of two pairs: rewards over pairs, log-probs and what the policy took from them over tokens."""
    policy, reference = torch.tensor([-2.0, -4.0, -6.0, -1.0]), torch.tensor([-1.0, -4.0, -3.0, -2.0])
    batch = replace(batch_of(random_pairs(2)), reference=reference, lengths=torch.tensor([2, 1, 3, 4]))
    found = describe(sums_of(policy, 0.5 * (policy - reference), batch).tolist())
    assert found == pytest.approx({
        "reward_chosen": -0.25, "reward_rejected": -0.5, "margin": 0.25, "accuracy": 0.5,
        "chosen_log_prob": -2, "rejected_log_prob": -1, "kl": 0.3, "chosen_tokens": 1.5, "rejected_tokens": 3.5,
    })  # fmt: skip


def test_four_micro_batches_add_up_to_one_batch():
    pairs = with_reference(random_pairs(8), small_model("gpt2"))
    model = moved(small_model("gpt2"))
    whole, told, gradients = loss_of(model, pairs, "packed")
    model.zero_grad(set_to_none=True)
    module = PairLoss(model, prefer_params())
    model.lookup_in_place = False
    losses = [module(batch_of(part)) / 8 for part in (pairs[:1], pairs[1:4], pairs[4:])]
    sum(losses).backward()
    assert float(sum(losses).detach()) == pytest.approx(whole, rel=1e-6)
    assert module.take_measures(list) == pytest.approx(told, rel=1e-5, abs=1e-7)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def test_only_the_margin_moves_the_loss_and_the_prompt_cancels():
    """A constant on both log-probs of a pair changes nothing, as long as there is no SFT term."""
    batch = replace(batch_of(random_pairs(3)), reference=torch.zeros(6, dtype=torch.float64))
    policy = torch.tensor([-3.0, -5.0, -9.0, -4.0, -5.0, -1.0], dtype=torch.float64)
    losses, rewards = pair_losses(policy, batch, prefer_params(beta=0.5))
    shifted, _ = pair_losses(policy - torch.tensor([2.0, 3.0, 4.0] * 2), batch, prefer_params(beta=0.5))
    torch.testing.assert_close(losses, shifted)
    assert losses[1] == math.log(2) and losses[0] < math.log(2) < losses[2]
    torch.testing.assert_close(rewards, 0.5 * policy)


def test_prompt_and_common_beginning_are_computed_once_and_the_head_runs_once_for_each_target():
    pairs = random_pairs(6)
    batch = batch_of(pairs)
    paths = {side.ids[:end] for pair in pairs for side in pair.sides for end in range(1, len(side.ids))}
    assert batch.input_ids.numel() == len(paths) == pair_row_size(pairs)[0]
    targets = {
        side.ids[:end]
        for pair in pairs for side in pair.sides for end in range(side.prompt_length + 1, len(side.ids) + 1)
    }  # fmt: skip
    assert len(batch.places) == len(targets) < pair_row_size(pairs)[1]
    assert batch_of(pairs, "padded").input_ids.shape[0] == 12


@pytest.mark.parametrize("seed", range(4))
def test_tree_holds_each_path_and_hides_all_else(seed):
    generator = torch.Generator().manual_seed(seed)
    sequences = [
        tuple(torch.randint(0, 2, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator).tolist())
        for _ in range(9)
    ]
    tree = grow_tree(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tuple(tree.ids[place] for place in path) == sequence
        assert [tree.positions[place] for place in path] == list(range(len(path)))
        for depth, query in enumerate(path):
            assert [key for key in range(len(tree.ids)) if key <= query < tree.ends[key]] == path[: depth + 1]


def test_gradients_are_the_same_bytes_every_time_with_two_threads():
    torch.set_num_threads(2)
    model = moved(small_model("llama"))
    pairs = with_reference(random_pairs(24, longest=20), model)
    seen = {
        b"".join(gradient.numpy().tobytes() for gradient in loss_of(model, pairs, "packed")[2].values())
        for _ in range(4)
    }
    assert len(seen) == 1


def test_adapters_start_at_the_reference_and_alone_have_gradients():
    """The reference is the model under the adapters, whatever it was trained with."""
    model = small_model("llama")
    pairs = random_pairs(4)
    batch = batch_of(pairs)
    with torch.no_grad():
        batch = replace(batch, reference=log_probs(model, batch))
    add_lora(model, lora_params(r=2), seed=0)
    module = PairLoss(model, prefer_params())
    loss = module(batch)
    loss.backward()
    assert float(loss.detach()) / 4 == math.log(2)
    assert {name[-6:] for name, weight in model.named_parameters() if weight.grad is not None} == {"lora_A", "lora_B"}


def test_reference_is_of_the_pair_it_was_given_for():
    pairs = [replace(pair, reference=(-1.0 - i, -101.0 - i)) for i, pair in enumerate(random_pairs(3))]
    batch = collate_pairs(pairs, batching="packed", pad_id=END, device=torch.device("cpu"))
    assert batch.reference.tolist() == [-1.0, -2.0, -3.0, -101.0, -102.0, -103.0]
    assert batch.lengths.tolist() == [pair.sides[side].response_tokens for side in (0, 1) for pair in pairs]
    assert isinstance(pairs[0], EncodedPair) and batch.tokens == sum(pair.token_count for pair in pairs)
