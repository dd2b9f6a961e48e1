"""Training on a GPU: recorded steps against operation by operation, launches, the same bytes, saving and going on."""

from dataclasses import replace

import pytest
import torch
from small_gpu import CONFIGS, CUDA, RUNTIMES, Count, gpu_model, gpu_step, model_for, walk
from small_training import (
    ALONE,
    END,
    example,
    lora_params,
    loss_and_gradients,
    make_batch,
    make_trainer,
    open_store,
    random_examples,
    train_params,
    weights_of,
)

from instruct.training.loop import batch_maker, draw_steps, make_optimizer, take_step
from instruct.training.loss import LossModule
from instruct.training.packing import BlockAttend, PackedAttend
from instruct.training.recorded import RecordedStep, same_bytes
from instruct.training.sample import Greedy
from instruct.training.supervised import supervised

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
families = pytest.mark.parametrize("family", CONFIGS)
precisions = pytest.mark.parametrize("precision", RUNTIMES)
TRAIN_SET, VAL_SET = random_examples(42, seed=1), random_examples(6, seed=2)


@pytest.fixture(scope="module", autouse=True)
def there_is_cuda():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA here")


def recorded(family, precision, record=True, **changes):
    params = train_params(**changes)
    model, runtime = model_for(family, params), RUNTIMES[precision]
    steps = list(draw_steps(TRAIN_SET, params))
    return model, steps, gpu_step(model, steps, supervised(params, runtime, END), params, runtime, record=record)


SETTINGS = {
    "plain": {},
    "unmasked": {"prompt_loss_weight": 0.3},
    "accumulated": {"micro_batch_size": 2, "grad_accum_steps": 2},
    "counted in tokens": {"tokens_per_step": 70, "grad_accum_steps": 2},
    "adapters": {"lora": lora_params(r=2)},
    "adapters with dropout": {"lora": lora_params(r=2, dropout=0.3)},
    "recomputed": {"recompute_activations": True},
    "padded": {"batching": "padded"},
}


@precisions
@families
@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_steps_equal_those_launched_one_by_one(family, precision, name):
    with same_bytes(CUDA):
        model, steps, step = recorded(family, precision, **SETTINGS[name])
        found = walk(steps, step)
        other, steps, step = recorded(family, precision, record=False, **SETTINGS[name])
        expected = walk(steps, step)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4 if precision == "fp32" else 1e-2)
    for (key, weight), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, theirs, rtol=1e-2, atol=1e-3, msg=key)


@families
@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_recorded_steps_equal_eager_ones_over_gathered_rows(family, batching):
    """Today's step, as a CPU takes it, in fp32 on the GPU."""
    params, runtime = train_params(batching=batching), RUNTIMES["fp32"]
    _, steps, step = recorded(family, "fp32", batching=batching)
    found = walk(steps, step)
    model = gpu_model(family)
    module, optimizer, to_batch = LossModule(model), make_optimizer(model, params), batch_maker(params, runtime, END)
    expected = [
        take_step(
            module, optimizer, examples, lambda part: to_batch(part, flat=False),
            lr=0.001, params=params, runtime=runtime, parallel=ALONE,
        )
        for examples in steps[:6]
    ]  # fmt: skip
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_recorded_steps_train_an_untied_head(monkeypatch):
    monkeypatch.setitem(CONFIGS, "untied", replace(CONFIGS["llama"], tied=False))
    with same_bytes(CUDA):
        model, steps, step = recorded("untied", "fp32")
        before = model.lm_head.weight.detach().clone()
        found = walk(steps, step)
        _, steps, step = recorded("untied", "fp32", record=False)
        expected = walk(steps, step)
    assert not torch.equal(model.lm_head.weight, before)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@families
def test_recorded_step_launches_next_to_nothing(family):
    _, steps, step = recorded(family, "bf16")
    with Count() as count:
        walk(steps, step, 1)
    assert count.operations < 60, "batches made on the CPU included"
    _, steps, step = recorded(family, "bf16", record=False)
    with Count() as many:
        walk(steps, step, 1)
    assert many.operations > 5 * count.operations


def test_gradient_that_is_no_number_leaves_the_weights_alone_in_a_recorded_step():
    model, steps, step = recorded("gpt2", "bf16")
    with torch.no_grad():
        model.ln_f.weight[0] = float("inf")
    # Copied, not moved: the graph reads and writes the memory in which the weights were when it was recorded.
    before = [weight.detach().clone() for weight in model.parameters()]
    ((loss, norm),) = walk(steps, step, 1)
    assert not torch.tensor([loss, norm]).isfinite().any()
    assert all(map(torch.equal, model.parameters(), before))


def test_model_that_cannot_be_recorded_goes_on_and_says_so(monkeypatch, caplog):
    caplog.set_level("INFO")
    plain = RecordedStep._accumulate

    def waits_for_the_device(self, batch):
        plain(self, batch)
        float(self._loss)

    monkeypatch.setattr(RecordedStep, "_accumulate", waits_for_the_device)
    _, steps, step = recorded("gpt2", "bf16", record=False)
    step.record(steps)
    assert "cannot be recorded" in caplog.text and not step._graphs
    monkeypatch.undo()
    results = walk(steps, step)
    _, steps, step = recorded("gpt2", "bf16", record=False)
    for ours, theirs in zip(results, walk(steps, step), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2)


def test_graph_with_other_gradients_is_not_used(monkeypatch, caplog):
    caplog.set_level("INFO")
    plain = RecordedStep._accumulate

    def other_while_recording(self, batch):
        plain(self, batch)
        if torch.cuda.is_current_stream_capturing():
            self._gradients[3].add_(0.1)

    monkeypatch.setattr(RecordedStep, "_accumulate", other_while_recording)
    with pytest.raises(AssertionError, match="operation by operation"):
        recorded("gpt2", "fp32")
    assert "gradients differ" in caplog.text


# Attention


@families
@precisions
def test_loss_and_gradients_of_the_dense_mask_equal_those_of_gathered_rows_and_of_blocks(family, precision):
    model, examples = gpu_model(family), random_examples(6, preamble=5)
    dense = make_batch(examples, "packed", 0.3, device=CUDA)
    batches = {
        "rows": make_batch(examples, "packed", 0.3, device=CUDA, flat=False),
        "blocks": replace(dense, attend=BlockAttend(dense.attend.ends)),
    }
    assert isinstance(batches["rows"].attend, PackedAttend)
    loss, gradients = loss_and_gradients(model, dense, RUNTIMES[precision])
    for name, batch in batches.items():
        other_loss, others = loss_and_gradients(model, batch, RUNTIMES[precision])
        assert other_loss == pytest.approx(loss, rel=1e-4 if precision == "fp32" else 1e-2), name
        for key, gradient in gradients.items():
            difference = (others[key] - gradient).norm() / (gradient.norm() + 1e-3)
            assert difference < (1e-3 if precision == "fp32" else 0.05), f"{name}: {key}"


@families
def test_long_row_takes_blocks_and_equals_a_dense_mask(family, monkeypatch):
    monkeypatch.setattr("instruct.training.packing.DENSE_TOKENS", 100)
    model, examples = gpu_model(family), random_examples(30, preamble=5)
    long = make_batch(examples, "packed", 0.3, device=CUDA)
    loss, _ = loss_and_gradients(model, long)
    assert long.attend._blocks is not None and long.attend._dense is None
    monkeypatch.setattr("instruct.training.packing.DENSE_TOKENS", 10_000)
    expected, _ = loss_and_gradients(model, make_batch(examples, "packed", 0.3, device=CUDA))
    assert loss == pytest.approx(expected, rel=1e-4)


# Whole runs


def train_on_gpu(tmp_path, name, on_evaluation=lambda point: None, precision="bf16", **changes):
    settings = {"epochs": 2, "eval_every": 3, "lr": 0.003, "micro_batch_size": 4, **changes}
    model = gpu_model("gpt2", settings.get("lora"))
    store = open_store(tmp_path / name, code="1")
    trainer = make_trainer(model, store, TRAIN_SET, VAL_SET, on_evaluation, runtime=RUNTIMES[precision], **settings)
    history = trainer.fit()
    return history, weights_of(model.cpu())


@precisions
@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": lora_params(r=2, dropout=0.3)}, {"batching": "padded"}, {"prompt_loss_weight": 0.3}],
    ids=["full", "adapters with dropout", "padded", "unmasked"],
)
def test_two_runs_on_the_same_card_give_the_same_bytes(tmp_path, precision, changes):
    first = train_on_gpu(tmp_path, "a", precision=precision, **changes)
    assert train_on_gpu(tmp_path, "b", precision=precision, **changes) == first


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("changes", [{}, {"lora": lora_params(r=2, dropout=0.3)}], ids=["full", "adapters"])
def test_run_that_was_cut_off_ends_with_the_same_bytes(tmp_path, changes):
    expected = train_on_gpu(tmp_path, "unbroken", **changes)

    def kill(point):
        if point.step == 9:
            raise Killed

    with pytest.raises(Killed):
        train_on_gpu(tmp_path, "broken", kill, **changes)
    seen = []
    assert train_on_gpu(tmp_path, "broken", seen.append, **changes) == expected
    assert seen[0].step == 9, "the run must have gone on"


def test_best_weights_are_those_of_their_evaluation(tmp_path):
    weights = {}
    model = gpu_model("gpt2")
    trainer = make_trainer(
        model, open_store(tmp_path), TRAIN_SET, VAL_SET,
        lambda point: weights.update({point.step: {n: w.detach().cpu().clone() for n, w in model.named_parameters()}}),
        runtime=RUNTIMES["bf16"], epochs=2, eval_every=2, lr=0.05,
    )  # fmt: skip
    history = trainer.fit()
    best = trainer.best.tensors()
    assert all(tensor.is_pinned() for tensor in best.values())
    for name, weight in weights[history.best.step].items():
        assert torch.equal(best[name], weight), name


def test_record_longer_than_the_dense_limit_trains_beside_recorded_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("instruct.training.buckets.DENSE_TOKENS", 60)
    monkeypatch.setattr("instruct.training.packing.DENSE_TOKENS", 60)
    monkeypatch.setattr("instruct.training.buckets.GRAIN", 8)
    _, _, step = recorded("gpt2", "fp32", micro_batch_size=3)
    long = [example([1, 2, 3], list(range(10, 50)), "a"), example([1, 2, 4], list(range(10, 50)), "b")]
    step.begin(long, 0.001)
    loss, norm = step.read()
    assert 0 < loss < 20 and 0 < norm < 1000


@families
def test_recorded_sample_answer_is_the_cpus(family):
    model = gpu_model(family)
    on_gpu = Greedy(model, [5, 6, 7, 8], 20)
    expected = Greedy(gpu_model(family).cpu(), [5, 6, 7, 8], 20).answer(frozenset({END}))
    assert on_gpu.answer(frozenset({END})) == on_gpu.answer(frozenset({END})) == expected
    assert on_gpu._replay != on_gpu._step, "it was not recorded"
