"""Preference tuning on a GPU: the same losses, gradients and log-probs as on a CPU, recorded steps, the same bytes."""

import math
from dataclasses import replace

import pytest
import torch
from small_gpu import CUDA, RUNTIMES, Count, gpu_model, gpu_step, model_for, walk
from small_preference import make_preferrer, prefer_params, random_pairs
from small_training import ALONE, CPU, END, FAMILIES, lora_params, open_store, small_model, weights_of

from instruct.core.runtime import Runtime
from instruct.preference.collate import collate_pairs
from instruct.preference.loss import PairLoss, log_probs, preferring
from instruct.preference.reference import measure
from instruct.training.loop import draw_steps, make_optimizer, take_step
from instruct.training.recorded import same_bytes

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
precisions = pytest.mark.parametrize("precision", RUNTIMES)
families = pytest.mark.parametrize("family", FAMILIES)
batchings = pytest.mark.parametrize("batching", ["packed", "padded"])


@pytest.fixture(scope="module", autouse=True)
def there_is_cuda():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA here")


def measured(model, pairs, device, batching="packed", dtype=torch.float32):
    fit = prefer_params(batching=batching).fit
    return measure(model.to(device), pairs, fit, Runtime(device, dtype), END)


def loss_on(device, family, pairs, batching):
    model = small_model(family).to(device)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)).to(device)
    module = PairLoss(model, prefer_params())
    loss = module(collate_pairs(pairs, batching=batching, pad_id=END, device=device)) / len(pairs)
    loss.backward()
    return float(loss.detach()), {name: weight.grad.cpu() for name, weight in model.named_parameters()}


@families
@batchings
def test_loss_and_every_gradient_equal_those_of_a_cpu(family, batching):
    pairs = measured(small_model(family), random_pairs(6), CPU)
    expected_loss, expected = loss_on(CPU, family, pairs, "padded")
    loss, gradients = loss_on(CUDA, family, pairs, batching)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-2, atol=1e-4, msg=name)


@families
@batchings
def test_reference_log_probs_equal_those_of_a_cpu(family, batching):
    pairs = random_pairs(9)
    expected = measured(small_model(family), pairs, CPU)
    for ours, theirs in zip(measured(small_model(family), pairs, CUDA, batching), expected, strict=True):
        assert ours.reference == pytest.approx(theirs.reference, rel=1e-4)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_first_loss_is_ln_2_to_the_bit(family, dtype):
    model, pairs, runtime = small_model(family).to(CUDA), random_pairs(7), Runtime(CUDA, dtype)
    batch = collate_pairs(pairs, batching="packed", pad_id=END, device=CUDA)
    with torch.no_grad(), runtime.autocast():
        batch = replace(batch, reference=log_probs(model, batch))
        assert float(PairLoss(model, prefer_params())(batch)) / len(pairs) == math.log(2)


# Recorded steps

SETTINGS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "ipo": {"loss": "ipo"},
    "by token": {"loss": "sigmoid_norm", "beta": 5.0},
    "with SFT": {"sft_weight": 0.7},
    "accumulated": {"micro_batch_size": 2, "grad_accum_steps": 3},
    "adapters": {"lora": lora_params(r=2)},
    "adapters with dropout": {"lora": lora_params(r=2, dropout=0.3)},
    "recomputed": {"recompute_activations": True},
    "padded": {"batching": "padded"},
}


def pairs_on_gpu(family, precision, count=42, seed=1):
    return measured(gpu_model(family), random_pairs(count, seed=seed), CUDA, dtype=RUNTIMES[precision].dtype)


def recorded(family, precision, record=True, **changes):
    params, runtime = prefer_params(lr=0.003, **changes), RUNTIMES[precision]
    model, objective = model_for(family, params), preferring(params, runtime, END)
    steps = list(draw_steps(pairs_on_gpu(family, precision), params))
    step = gpu_step(model, steps, objective, params, runtime, record=record)
    if record:
        assert not step._module._sums.any() and not any(gradient.any() for gradient in step._gradients)
    return model, steps, step


def walk_and_measure(steps, step):
    """Loss, norm and measures of each step."""
    return walk(steps, step, more=lambda: (step._module.take_measures(list),))


def assert_same_steps(found, expected, rtol):
    for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours[0] == pytest.approx(theirs[0], rel=rtol, abs=rtol)
        assert ours[1] == pytest.approx(theirs[1], rel=10 * rtol)
        if place:  # before, margins are rounding
            assert ours[2] == pytest.approx(theirs[2], rel=10 * rtol, abs=rtol)


@pytest.mark.parametrize(("family", "precision"), [("gpt2", "bf16"), ("llama", "fp32")])
@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_steps_equal_those_launched_one_by_one(family, precision, name):
    with same_bytes(CUDA):
        model, steps, step = recorded(family, precision, **SETTINGS[name])
        found = walk_and_measure(steps, step)
        other, steps, step = recorded(family, precision, record=False, **SETTINGS[name])
        expected = walk_and_measure(steps, step)
    assert_same_steps(found, expected, 1e-4 if precision == "fp32" else 1e-2)
    for (key, weight), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, theirs, rtol=1e-2, atol=1e-3, msg=key)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "plain"),
        ("llama", "plain"),
        ("llama", "ipo"),
        ("gpt2", "by token"),
        ("gpt2", "with SFT"),
        ("llama", "accumulated"),
        ("gpt2", "padded"),
    ],
)
def test_recorded_steps_equal_the_ordinary_ones_over_gathered_rows(family, name):
    """The step that a CPU takes, in fp32 on the GPU."""
    params, runtime = prefer_params(lr=0.003, **SETTINGS[name]), RUNTIMES["fp32"]
    _, steps, step = recorded(family, "fp32", **SETTINGS[name])
    found = walk_and_measure(steps, step)
    model, objective = gpu_model(family), preferring(params, runtime, END)
    module, optimizer, expected = objective.module(model), make_optimizer(model, params), []
    for examples in steps[:6]:
        loss, norm = take_step(
            module, optimizer, examples, lambda part: objective.to_batch(part, flat=False),
            lr=0.001, params=params, runtime=runtime, parallel=ALONE,
        )  # fmt: skip
        expected.append((loss, norm, module.take_measures(list)))
    assert_same_steps(found, expected, 1e-3)


def launches(steps, step):
    """Operations that are dispatched one by one in a step whose batches are made."""
    step.prepare(steps[0])
    with Count() as count:
        step.begin(steps[0], 0.001)
        step.read()
    return count.operations


@families
def test_recorded_step_launches_next_to_nothing(family):
    _, *found = recorded(family, "bf16")
    _, *other = recorded(family, "bf16", record=False)
    assert launches(*found) < 20 and launches(*other) > 100


def test_gradient_that_is_no_number_leaves_the_weights_alone_in_a_recorded_step():
    model, steps, step = recorded("gpt2", "bf16")
    with torch.no_grad():
        model.ln_f.weight[0] = float("inf")
    # Copied, not moved: the graph reads and writes the memory in which the weights were when it was recorded.
    before = [weight.detach().clone() for weight in model.parameters()]
    step.begin(steps[0], 0.001)
    assert not torch.tensor(step.read()).isfinite().any()
    assert all(map(torch.equal, model.parameters(), before))


# Whole runs


def tune(folder, precision, on_step=lambda trainer: None, **changes):
    """A whole run: its history and the bytes of its last weights."""
    params = prefer_params(**changes)
    pairs = pairs_on_gpu("gpt2", precision, 24)
    model = gpu_model("gpt2", params.lora if params.lora.r else None)
    trainer = make_preferrer(
        model, open_store(folder, code="1"), pairs[:20], pairs[20:], runtime=RUNTIMES[precision], epochs=4, **changes
    )
    after = trainer._after_step

    def after_step(interrupted):
        after(interrupted)
        on_step(trainer)

    trainer._after_step = after_step
    return trainer.fit(), weights_of(model.cpu())


RUNS = {
    "full": {},
    "adapters": {"lora": lora_params(r=2)},
    "adapters with dropout": {"lora": lora_params(r=2, dropout=0.3)},
    "padded": {"batching": "padded"},
}


@precisions
@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_two_runs_on_the_same_card_are_recorded_give_the_same_bytes_and_learn(tmp_path, caplog, precision, changes):
    caplog.set_level("INFO")
    history, weights = tune(tmp_path / "a", precision, **changes)
    assert any("steps recorded as CUDA graphs" in line for line in caplog.messages), caplog.messages
    assert tune(tmp_path / "b", precision, **changes) == (history, weights)
    assert history.train[-1].loss < history.train[0].loss


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", ["full", "adapters with dropout"])
def test_run_that_was_cut_off_ends_with_the_same_bytes(tmp_path, name):
    changes = RUNS[name]
    expected = tune(tmp_path / "unbroken", "bf16", **changes)

    def kill(trainer):
        if trainer.history.step == 9:
            raise Killed

    with pytest.raises(Killed):
        tune(tmp_path / "broken", "bf16", kill, **changes)
    assert tune(tmp_path / "broken", "bf16", **changes) == expected
