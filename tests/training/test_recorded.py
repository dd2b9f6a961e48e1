"""The step from buffers that stay in place, run operation by operation as it is on a CPU, against today's step."""

from itertools import combinations

import pytest
import torch
from grids import thinned
from small_recorded import in_slots, pretend_to_record, recorded_step
from small_training import (
    ALONE,
    BFLOAT16,
    CPU,
    END,
    FAMILIES,
    FLOAT32,
    example,
    lora_params,
    loss_and_gradients,
    make_batch,
    random_examples,
    small_model,
    train_params,
    weights_of,
)

from instruct.model.lora import add_lora
from instruct.training.buckets import Bucket, Slots, choose_buckets, fill_up, join, row_size
from instruct.training.loop import batch_maker, draw_steps, make_optimizer, take_step
from instruct.training.loss import LossModule
from instruct.training.recorded import RecordedStep
from instruct.training.supervised import supervised

pytestmark = pytest.mark.usefixtures("one_thread")
families = pytest.mark.parametrize("family", FAMILIES)
TRAIN_SET = random_examples(22, seed=1)


# Buckets


def test_buckets_hold_every_row_and_are_few():
    generator = torch.Generator().manual_seed(0)
    sizes = [(int(a), int(b)) for a, b in torch.randint(1, 4096, (300, 2), generator=generator)]
    buckets = choose_buckets(sizes)
    assert len(buckets) == 4 and buckets == sorted(buckets)
    assert all(any(bucket.holds(*size) for bucket in buckets) for size in sizes)


def test_buckets_by_hand():
    # two pieces: 64 | 128 512 576 costs 10 x 64 + 7 x 576; 64 128 | 512 576 would cost 11 x 128 + 6 x 576
    sizes = [(64, 1)] * 10 + [(100, 3)] + [(512, 80)] * 5 + [(570, 2)]
    assert choose_buckets(sizes, most=2) == [Bucket(64, 64), Bucket(576, 128)]
    assert choose_buckets(sizes, most=1) == [Bucket(576, 128)]
    assert choose_buckets(sizes) == [Bucket(64, 64), Bucket(128, 64), Bucket(512, 128), Bucket(576, 64)]
    assert choose_buckets([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_of_buckets_fills_up_less(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(64 * int(one), 1) for one in torch.randint(1, 12, (30,), generator=generator)]
    kinds = sorted({tokens for tokens, _ in sizes})

    def cost(chosen):
        return sum(min(limit for limit in chosen if limit >= tokens) for tokens, _ in sizes)

    least = min(cost({*chosen, kinds[-1]}) for count in range(3) for chosen in combinations(kinds, count))
    assert cost([bucket.tokens for bucket in choose_buckets(sizes, most=3)]) == least


def test_rows_too_long_for_a_dense_mask_get_no_bucket():
    assert choose_buckets([(4096, 10), (4097, 10)]) == [Bucket(4096, 64)]


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_size_of_a_row_is_known_without_making_it(weight):
    for count in (1, 2, 7):
        examples = random_examples(count, seed=count)
        batch = make_batch(examples, "packed", weight)
        tokens, targets = row_size(examples, weight)
        assert tokens == batch.input_ids.numel()
        assert targets == len(batch.places) if weight == 0 else targets >= len(batch.places)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_buckets_have_room_for_the_targets_that_the_setting_counts(weight):
    """Else every row with a target in its prompt would run without its bucket, many times slower."""
    objective = supervised(train_params(prompt_loss_weight=weight), FLOAT32, END)
    row, (tokens, targets) = objective.to_row(TRAIN_SET[:4]), objective.row_size(TRAIN_SET[:4])
    assert tokens == row.input_ids.numel() and targets >= len(row.places)


@pytest.mark.parametrize(("family", "weight", "spare"), thinned(list(FAMILIES), [0.0, 0.3], [(0, 0), (1, 0), (37, 50)]))
def test_filled_up_row_gives_the_same_loss_and_gradients(family, weight, spare):
    examples, model = random_examples(6, preamble=5), small_model(family)
    expected_loss, expected = loss_and_gradients(model, make_batch(examples, "packed", weight))
    batch = make_batch(examples, "packed", weight, flat=True)
    bucket = Bucket(batch.input_ids.numel() + spare[0], len(batch.places) + spare[1])
    loss, gradients = loss_and_gradients(model, in_slots(batch, bucket, fill_up))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name].to_dense(), gradient.to_dense(), rtol=1e-3, atol=2e-6, msg=name)


def test_slots_keep_nothing_of_the_row_before():
    model, rows = small_model("gpt2"), []
    for examples in (random_examples(6), random_examples(2, seed=9), random_examples(6)):
        rows.append(fill_up(make_batch(examples, "packed", 0.3, flat=True), Bucket(256, 128)))
    slots = Slots(rows[1], CPU)
    losses = []
    for row in rows:
        slots.fill(join(row))
        losses.append(loss_and_gradients(model, slots.batch())[0])
    assert losses[0] == losses[2] != losses[1]


# Steps


def make_step(model, params, runtime=FLOAT32):
    steps = list(draw_steps(TRAIN_SET, params))
    return steps, recorded_step(model, steps, supervised(params, runtime, END), params, runtime)


def run_both(family, runtime=FLOAT32, **changes):
    """Losses, norms and final weights of a run by today's step and from buffers."""
    params = train_params(epochs=2, lr=0.003, **changes)
    found = []
    for recorded in (False, True):
        model = small_model(family)
        if params.lora.r:
            add_lora(model, params.lora, seed=0)
        if recorded:
            steps, step = make_step(model, params, runtime)
        else:
            module, optimizer = LossModule(model), make_optimizer(model, params)
        results = []
        for number, examples in enumerate(draw_steps(TRAIN_SET, params)):
            lr = 0.001 * (number + 1)
            if recorded:
                step.begin(steps[number], lr)
                step.prepare(steps[min(number + 1, len(steps) - 1)])
                results.append(step.read())
            else:
                results.append(
                    take_step(
                        module, optimizer, examples, batch_maker(params, runtime, END),
                        lr=lr, params=params, runtime=runtime, parallel=ALONE,
                    )
                )  # fmt: skip
        found.append((results, {name: weight.detach() for name, weight in model.named_parameters()}))
    return found


def assert_same(found, rtol=1e-3):
    (expected, weights), (results, ours) = found
    assert [one[0] for one in results] == pytest.approx([one[0] for one in expected], rel=rtol)
    assert [one[1] for one in results] == pytest.approx([one[1] for one in expected], rel=10 * rtol)
    for name, weight in weights.items():
        here = ours[name]
        if name.endswith("c_attn.bias"):  # a key's bias changes no attention: its gradient is rounding alone
            here, weight = (torch.cat((one.chunk(3)[0], one.chunk(3)[2])) for one in (here, weight))
        torch.testing.assert_close(here, weight, rtol=rtol, atol=5 * rtol * 0.1, msg=name)


CHANGES = [
    {},
    {"prompt_loss_weight": 0.3},
    {"micro_batch_size": 2, "grad_accum_steps": 3},
    {"tokens_per_step": 70, "grad_accum_steps": 2},
    {"lora": lora_params(r=2)},
    {"recompute_activations": True},
    {"batching": "padded"},
    {"max_grad_norm": 0.1},
    {"max_grad_norm": 1e9},
]


@pytest.mark.parametrize(("changes", "family"), thinned(CHANGES, list(FAMILIES), together=1))
def test_steps_from_buffers_equal_todays(family, changes):
    assert_same(run_both(family, **changes))


@families
def test_steps_from_buffers_in_bf16_follow_todays(family):
    (expected, _), (results, _) = run_both(family, BFLOAT16)
    assert [one[0] for one in results] == pytest.approx([one[0] for one in expected], rel=0.03)
    steps, step = make_step(small_model(family), train_params(epochs=2, lr=0.003))
    step.begin(steps[0], 0.001)
    assert results[0] != step.read(), "the first step, from the same weights, must be computed in bf16"


def test_rows_longer_than_any_bucket_go_without_one(monkeypatch):
    monkeypatch.setattr("instruct.training.buckets.DENSE_TOKENS", 64)
    monkeypatch.setattr("instruct.training.buckets.GRAIN", 8)
    _, step = make_step(small_model("gpt2"), params := train_params())
    kinds = {one.bucket for examples in draw_steps(TRAIN_SET, params) for one in step.prepare(examples)[1]}
    assert None in kinds and len(kinds) > 1
    assert_same(run_both("gpt2"))


def test_gradient_that_is_no_number_leaves_weights_and_optimizer_alone():
    model = small_model("gpt2")
    steps, step = make_step(model, train_params())
    step.begin(steps[0], 0.01)
    with torch.no_grad():
        model.ln_f.weight[0] = float("inf")
    before = weights_of(model)
    state = [{key: value.clone() for key, value in one.items()} for one in step._optimizer.state.values()]
    step.begin(steps[1], 0.01)
    loss, norm = step.read()
    assert not torch.tensor(loss).isfinite() and not torch.tensor(norm).isfinite()
    assert weights_of(model) == before
    for one, was in zip(step._optimizer.state.values(), state, strict=True):
        assert all(torch.equal(one[key], was[key]) for key in was)
    assert all(not weight.grad.any() for weight in model.parameters()), "the next step starts from zero"


@families
def test_recording_leaves_no_trace(monkeypatch, family):
    found = []
    for recording in (False, True):
        model = small_model(family)
        steps, step = make_step(model, train_params(epochs=2, micro_batch_size=2, grad_accum_steps=3))
        if recording:
            pretend_to_record(monkeypatch, step)
            before = weights_of(model)
            step.record(steps)
            assert step._graphs.keys() == {None, *step._buckets} and len(step._graphs) > 1
            assert weights_of(model) == before
            assert not step._loss and not any(weight.grad.any() for weight in model.parameters())
            assert not any(one.any() for state in step._optimizer.state.values() for one in state.values())
            assert step._module.needed_flops == 0
        results = []
        for examples in steps:
            step.begin(examples, 0.01)
            results.append(step.read())
        found.append((results, weights_of(model)))
    assert found[0] == found[1]


def test_graph_with_other_gradients_is_refused(monkeypatch, caplog):
    caplog.set_level("INFO")
    model = small_model("gpt2")
    steps, step = make_step(model, train_params())
    pretend_to_record(monkeypatch, step, after=lambda: step._gradients[3].add_(0.1))
    step.record(steps)
    assert "gradients differ" in caplog.text and not step._graphs
    assert not any(weight.grad.any() for weight in model.parameters())


def test_graph_that_reports_another_loss_is_refused(monkeypatch, caplog):
    caplog.set_level("INFO")
    steps, step = make_step(small_model("gpt2"), train_params())
    pretend_to_record(monkeypatch, step, after=lambda: step._loss.add_(1.0))
    step.record(steps)
    assert "cannot be recorded" in caplog.text and not step._graphs


def test_steps_go_on_with_the_optimizers_state_that_was_restored():
    """Else a run on a GPU that goes on from a state would begin again with AdamW's zeros."""
    found = []
    for again in (False, True):
        model, params = small_model("gpt2"), train_params()
        steps, optimizer = list(draw_steps(TRAIN_SET, params)), make_optimizer(model, params, recorded=True)
        for number, examples in enumerate(steps):
            if number == 0 or again:
                step = RecordedStep(
                    LossModule(model), optimizer, steps, objective=supervised(params, FLOAT32, END), params=params,
                    runtime=FLOAT32,
                )  # fmt: skip
            step.begin(examples, 0.01)
            step.read()
        found.append(weights_of(model))
    assert found[0] == found[1]


def test_operations_needed_are_those_of_the_real_tokens():
    model, params = small_model("gpt2"), train_params()
    module = LossModule(small_model("gpt2"))
    steps, step = make_step(model, params)
    step.begin(steps[0], 0.01)
    take_step(
        module, make_optimizer(module, params), steps[0], batch_maker(params, FLOAT32, END),
        lr=0.01, params=params, runtime=FLOAT32, parallel=ALONE,
    )  # fmt: skip
    assert step._module.needed_flops == module.needed_flops > 0


def test_long_record_alone_is_a_row_of_its_own():
    long = [example([1, 2, 3], list(range(10, 60)), "long"), example([1, 2], [3], "short")]
    assert row_size(long[:1], 0.0) == (53, 51)
