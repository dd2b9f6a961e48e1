"""Steps over pairs from buffers that stay in place, operation by operation as on a CPU, against the ordinary ones."""

from dataclasses import replace

import pytest
import torch
from grids import thinned
from small_preference import batch_of, make_preferrer, prefer_params, random_pairs, with_reference
from small_recorded import from_buffers, in_slots, pretend_to_record, recorded_step
from small_training import (
    BFLOAT16,
    END,
    FAMILIES,
    FLOAT32,
    lora_params,
    open_store,
    small_model,
    weights_of,
)

from instruct.core.errors import InstructError
from instruct.model.lora import add_lora
from instruct.preference.collate import answer_targets, fill_up_pairs, pair_row_size
from instruct.preference.loss import PairLoss, log_probs, preferring
from instruct.training.buckets import Bucket
from instruct.training.loop import draw_steps

pytestmark = pytest.mark.usefixtures("one_thread")
families = pytest.mark.parametrize("family", FAMILIES)
LOSSES = [{}, {"label_smoothing": 0.2}, {"loss": "ipo"}, {"loss": "sigmoid_norm", "beta": 5.0}, {"sft_weight": 0.7}]
PAIRS = 6


def moved(model):
    """The model a little way from where the reference was taken."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    return model


def filled_up(batch, tokens, targets, pairs):
    bucket = Bucket(batch.input_ids.numel() + tokens, len(batch.places) + targets)
    return in_slots(batch, bucket, lambda row, size: fill_up_pairs(row, size, len(row.weights) + pairs))


def told_by(model, batch, **settings):
    """The loss, all sums told beside it, and every gradient."""
    model.zero_grad(set_to_none=True)
    module = PairLoss(model, prefer_params(**settings))
    model.lookup_in_place = False
    loss = module.loss(batch)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return float(loss.detach()), module._sums.tolist(), gradients


# Rows


def test_mask_says_which_targets_are_an_answers():
    pairs = random_pairs(7)
    sides = [pair.sides[place] for place in (0, 1) for pair in pairs]
    for batch in (batch_of(pairs), batch_of(pairs, "padded")):
        assert batch.in_answer.sum(1).tolist() == batch.lengths.tolist() == [side.response_tokens for side in sides]
        for answer, side in enumerate(sides):
            labels = batch.labels[batch.in_answer[answer]].tolist()
            assert sorted(labels) == sorted(label for _, label in answer_targets(side))
    shared = batch_of(pairs).in_answer.sum(0)
    assert shared.min() == 1 and shared.max() > 1, "what answers begin with in common is there once"


@pytest.mark.parametrize(("settings", "spare", "family"), thinned(LOSSES, [(0, 0, 0), (37, 50, 3)], list(FAMILIES)))
def test_filled_up_row_gives_the_same_loss_sums_and_gradients(family, settings, spare):
    pairs = with_reference(random_pairs(PAIRS), small_model(family))
    model, batch = moved(small_model(family)), batch_of(pairs, flat=True)
    expected_loss, expected_sums, expected = told_by(model, batch, **settings)
    loss, sums, gradients = told_by(model, filled_up(batch, *spare), **settings)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert sums == pytest.approx(expected_sums, rel=1e-5, abs=1e-4)
    assert sums[0] == PAIRS and sums[6:8] == expected_sums[6:8], "what fills the row up is not counted"
    assert gradients.keys() == expected.keys() and len(gradients) == len(list(model.parameters()))
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("settings", LOSSES, ids=str)
def test_what_fills_up_pairs_changes_the_loss_and_its_gradient_by_no_bit(settings):
    """From the same log-probs of targets: on a device where the rows' own numbers do not depend on their number."""
    pairs = with_reference(random_pairs(5), small_model("gpt2"))
    row = batch_of(pairs, flat=True)
    batches = [row, fill_up_pairs(row, Bucket(row.input_ids.numel(), len(row.places)), 8)]
    found = []
    for batch in batches:
        losses = torch.linspace(0.1, 3.0, len(batch.places), requires_grad=True)
        module = PairLoss(small_model("gpt2"), prefer_params(**settings))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("instruct.preference.loss.target_losses", lambda model, batch, given=losses: given)
            loss = module.loss(batch)
            loss.backward()
            policy = log_probs(module.model, batch)
        found.append((float(loss.detach()), module._sums.tolist(), losses.grad.tolist()))
    assert found[0] == found[1]
    halves = policy.view(2, 8)
    assert halves[:, :5].flatten().all() and not halves[:, 5:].any(), "an answer without targets has a log-prob of 0"


def test_targets_that_fill_up_touch_nothing_even_if_they_are_not_numbers():
    row = fill_up_pairs(batch_of(random_pairs(3), flat=True), Bucket(512, 256), 4)
    used = row.in_answer.any(0)
    losses = torch.where(used, torch.ones(256), torch.full((256,), torch.nan)).requires_grad_()
    module = PairLoss(small_model("gpt2"), prefer_params(sft_weight=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("instruct.preference.loss.target_losses", lambda model, batch: losses)
        loss = module.loss(row)
    loss.backward()
    assert loss.isfinite() and module._sums.isfinite().all()
    assert losses.grad[used].all() and not losses.grad[~used].any()


@pytest.mark.parametrize("size", [(2, 3), (4, 1), (9, 1)])
def test_buckets_hold_the_rows_of_all_micro_batches(size):
    params = prefer_params(epochs=3, micro_batch_size=size[0], grad_accum_steps=size[1])
    objective = preferring(params, FLOAT32, END)
    steps = list(draw_steps(random_pairs(40, longest=20), params))
    step = recorded_step(small_model("gpt2"), steps, objective, params, FLOAT32)
    for examples in steps:
        weight, prepared = step.prepare(examples)
        assert weight == len(examples) == sum(len(one.batch.weights) for one in prepared)
        for one in prepared:
            assert one.bucket is not None
            row = objective.fill_up(one.batch, one.bucket)
            assert len(row.weights) == params.micro_batch_size and row.weights.sum() == len(one.batch.weights)
    tokens, targets = pair_row_size(steps[0])
    batch = objective.to_row(steps[0])
    assert tokens == batch.input_ids.numel() and targets >= len(batch.places)


# Steps


def data(family, count=22):
    model = small_model(family)
    return with_reference(random_pairs(count, seed=1), model), with_reference(random_pairs(5, seed=2), model)


def run(tmp_path, family, recorded, runtime=FLOAT32, **changes):
    """A whole run: its history, and the final weights."""
    model, pairs = small_model(family), data(family)
    if "lora" in changes:
        add_lora(model, changes["lora"], seed=0)
    settings = {"lr": 0.003, "eval_every": 3, "save_minutes": 0.0, **changes}
    store = open_store(tmp_path / str(recorded))
    trainer = make_preferrer(model, store, *pairs, runtime=runtime, **settings)
    history = (from_buffers(trainer) if recorded else trainer).fit()
    return history, {name: weight.detach() for name, weight in model.named_parameters()}, trainer


def assert_same(found, rtol=1e-3):
    (expected, weights, _), (history, ours, _) = found
    for kind in ("train", "val"):
        for here, there in zip(getattr(history, kind), getattr(expected, kind), strict=True):
            assert here.loss == pytest.approx(there.loss, rel=rtol)
            if here.step > 1:  # before, margins are rounding
                assert here.measures == pytest.approx(dict(there.measures), rel=10 * rtol, abs=rtol)
    for here, there in zip(history.train, expected.train, strict=True):
        assert (here.step, here.tokens, here.lr) == (there.step, there.tokens, there.lr)
        assert here.grad_norm == pytest.approx(there.grad_norm, rel=10 * rtol)
    for name, weight in weights.items():
        here = ours[name]
        if name.endswith("c_attn.bias"):  # a key's bias changes no attention: its gradient is rounding alone
            here, weight = (torch.cat((one.chunk(3)[0], one.chunk(3)[2])) for one in (here, weight))
        torch.testing.assert_close(here, weight, rtol=rtol, atol=0.5 * rtol, msg=name)


# What a step does with its batches does not depend on the loss, whose filled-up rows are compared above.
WAYS = [
    {},
    {"micro_batch_size": 2, "grad_accum_steps": 3, "label_smoothing": 0.2},
    {"micro_batch_size": 3, "grad_accum_steps": 2, "lora": lora_params(r=2), "loss": "ipo"},
    {"lora": lora_params(r=2), "sft_weight": 0.7},
    {"recompute_activations": True, "loss": "sigmoid_norm", "beta": 5.0},
    {"batching": "padded"},
    {"batching": "padded", "lora": lora_params(r=2, dropout=0.3)},
    {"max_grad_norm": 0.1},
]


@pytest.mark.parametrize(("changes", "family"), thinned(WAYS, list(FAMILIES), together=1))
def test_steps_from_buffers_equal_the_ordinary_ones(tmp_path, changes, family):
    found = [run(tmp_path, family, recorded, **changes) for recorded in (False, True)]
    assert_same(found)
    ordinary, recorded = (trainer._loss_module.needed_flops for *_, trainer in found)
    assert recorded == ordinary > 0


@families
def test_steps_from_buffers_in_bf16_follow_the_ordinary_ones(tmp_path, family):
    (expected, *_), (history, *_) = (run(tmp_path, family, one, BFLOAT16, lr=0.001) for one in (False, True))
    for here, there in zip(history.train, expected.train, strict=True):
        assert here.loss == pytest.approx(there.loss, rel=0.05, abs=0.05)


def test_dropout_draws_the_same_in_every_run(tmp_path):
    runs = []
    for name in ("a", "b"):
        history, weights, _ = run(tmp_path / name, "llama", True, lora=lora_params(r=2, dropout=0.3))
        runs.append((history, {name: weight.numpy().tobytes() for name, weight in weights.items()}))
    assert runs[0] == runs[1]


def test_rows_longer_than_any_bucket_go_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("instruct.training.buckets.DENSE_TOKENS", 100)
    monkeypatch.setattr("instruct.training.buckets.GRAIN", 8)
    found = [run(tmp_path, "gpt2", recorded) for recorded in (False, True)]
    trainer = found[1][-1]
    kinds = {one.bucket for examples in trainer.steps for one in trainer._recorded.prepare(examples)[1]}
    assert None in kinds and len(kinds) > 1
    assert_same(found)


def test_loss_that_is_not_a_number_is_named_with_its_pairs(tmp_path):
    train_set, val_set = data("gpt2")
    train_set = [replace(train_set[0], id="broken", reference=(float("inf"), 0.0)), *train_set[1:]]
    trainer = from_buffers(make_preferrer(small_model("gpt2"), open_store(tmp_path), train_set, val_set))
    with pytest.raises(InstructError, match=r"the loss is .*lower prefer\.lr or look at the records .*broken"):
        trainer.fit()


@pytest.mark.parametrize(
    ("family", "lora"), thinned(list(FAMILIES), {"full": None, "adapters": lora_params(r=2)}, together=1)
)
def test_recording_leaves_no_trace_in_weights_gradients_and_measures(tmp_path, monkeypatch, family, lora):
    found = []
    for recording in (False, True):
        model, pairs = small_model(family), data(family)
        if lora:
            add_lora(model, lora, seed=0)
        store, changes = open_store(tmp_path / str(recording)), {"lora": lora} if lora else {}
        trainer = from_buffers(make_preferrer(model, store, *pairs, save_minutes=0.0, **changes))
        step = trainer._recorded
        if recording:
            pretend_to_record(monkeypatch, step)
            before = weights_of(model)
            step.record(trainer.steps)
            assert step._graphs.keys() == {None, *step._buckets} and len(step._graphs) > 1
            assert weights_of(model) == before and not step._loss
            assert not trainer._loss_module._sums.any()
            assert not any(gradient.any() for gradient in step._gradients)
        found.append((trainer.fit(), weights_of(model)))
    assert found[0] == found[1]


def test_graph_that_is_refused_leaves_no_measures(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    trainer = from_buffers(make_preferrer(small_model("gpt2"), open_store(tmp_path), *data("gpt2")))
    step = trainer._recorded
    pretend_to_record(monkeypatch, step, after=lambda: step._gradients[3].add_(0.1))
    step.record(trainer.steps)
    assert "gradients differ" in caplog.text and not step._graphs
    assert not trainer._loss_module._sums.any() and not any(gradient.any() for gradient in step._gradients)
