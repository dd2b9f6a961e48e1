import json
import math
import os
import random
import signal
import time
from dataclasses import asdict
from itertools import pairwise

import pytest
import torch
from grids import thinned
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
    make_trainer,
    open_store,
    random_examples,
    run_training,
    small_model,
    train_params,
    weights_of,
)

from instruct.core.errors import InstructError
from instruct.model.lora import add_lora
from instruct.training.collate import target_weights
from instruct.training.distributed import Parallel
from instruct.training.history import History, TrainPoint, ValPoint
from instruct.training.loop import batch_maker, draw_steps, evaluate, make_optimizer, micro_batches, take_step
from instruct.training.loss import LossModule, loss_sum
from instruct.training.trainer import interrupt_flag, spread

pytestmark = pytest.mark.usefixtures("one_thread")
families = pytest.mark.parametrize("family", FAMILIES)

# responses of 1, 2, 20, 40 tokens and so on: a mean of micro-batch means would be far off
UNEVEN = [example([1, 2, 3], range(10, 10 + length), f"u{length}") for length in (1, 40, 2, 20, 1, 1, 3, 30)]


def one_sgd_step(model, examples, **changes):
    """The loss, the gradient's norm, and each parameter's step per learning rate, which is its gradient."""
    params = train_params(max_grad_norm=1e9, **changes)
    module = LossModule(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    lr = 2.0**-10
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, fused=True)
    to_batch = batch_maker(params, FLOAT32, END)
    loss, norm = take_step(
        module, optimizer, examples, to_batch, lr=lr, params=params, runtime=FLOAT32, parallel=ALONE
    )  # fmt: skip
    return loss, norm, {name: (before[name] - weight.detach()) / lr for name, weight in model.named_parameters()}


@pytest.mark.parametrize(("family", "batching", "weight"), thinned(list(FAMILIES), ["packed", "padded"], [0.0, 0.3]))
def test_four_micro_batches_equal_one_batch(family, batching, weight):
    settings = {"batching": batching, "prompt_loss_weight": weight}
    loss, norm, steps = one_sgd_step(small_model(family), UNEVEN, micro_batch_size=8, grad_accum_steps=1, **settings)
    four = one_sgd_step(small_model(family), UNEVEN, micro_batch_size=2, grad_accum_steps=4, **settings)
    assert four[0] == pytest.approx(loss, rel=1e-5)
    assert four[1] == pytest.approx(norm, rel=1e-4)
    for name, step in steps.items():
        torch.testing.assert_close(four[2][name], step, rtol=1e-3, atol=5e-4, msg=name)
    means = [
        loss_and_gradients(small_model(family), make_batch(UNEVEN[i : i + 2], batching, weight))[0]
        for i in (0, 2, 4, 6)
    ]
    assert abs(sum(means) / 4 - loss) > 1e-3  # the wrong way is told apart


@families
def test_step_follows_the_gradient_of_the_token_mean(family):
    expected_loss, gradients = loss_and_gradients(small_model(family), make_batch(UNEVEN, "padded", 0.3))
    loss, norm, steps = one_sgd_step(small_model(family), UNEVEN, micro_batch_size=8, prompt_loss_weight=0.3)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert norm == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in gradients.values())), rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(steps[name], gradient, rtol=1e-3, atol=5e-4, msg=name)


def test_clipping_bounds_the_step_and_reports_the_norm_before():
    model, params = small_model("gpt2"), train_params(max_grad_norm=0.5, micro_batch_size=8)
    before = torch.cat([weight.detach().clone().flatten() for weight in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    to_batch = batch_maker(params, FLOAT32, END)
    _, norm = take_step(
        LossModule(model), optimizer, UNEVEN, to_batch, lr=2.0**-8, params=params, runtime=FLOAT32, parallel=ALONE
    )
    after = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    assert norm > 1
    assert (before - after).norm().item() == pytest.approx(0.5 * 2**-8, rel=1e-3)


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_evaluation_is_the_token_mean_however_it_is_batched(batching):
    model, examples = small_model("llama"), random_examples(11)
    total = weight = 0.0
    with torch.no_grad():
        for item in examples:
            ids = torch.tensor([item.ids])
            nll = -model(ids[:, :-1])[0].double().log_softmax(-1)
            weights = target_weights(item, 0.3)
            total += sum(w * float(nll[i, item.ids[i + 1]]) for i, w in enumerate(weights))
            weight += sum(weights)
    for size, accumulated in ((1, 1), (3, 2), (16, 1)):
        params = train_params(
            micro_batch_size=size, grad_accum_steps=accumulated, batching=batching, prompt_loss_weight=0.3
        )
        to_batch = batch_maker(params, FLOAT32, END)
        found = evaluate(LossModule(model), examples, to_batch, runtime=FLOAT32, parallel=ALONE)
        assert found == pytest.approx(total / weight, rel=1e-5)


def test_evaluation_is_without_dropout():
    """Though the steps before it had some: else the best checkpoint would be chosen by chance."""
    model, params = small_model("gpt2"), train_params()
    to_batch = batch_maker(params, FLOAT32, END)
    add_lora(model, lora_params(r=2, dropout=0.5), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_B"):
                weight.fill_(0.1)
        exact = float(loss_sum(model.eval(), make_batch(UNEVEN, "padded"))) / sum(len(one.ids) - 3 for one in UNEVEN)
    module = LossModule(model).train()
    assert evaluate(module, UNEVEN, to_batch, runtime=FLOAT32, parallel=ALONE) == pytest.approx(exact, rel=1e-5)


def test_evaluation_computes_in_the_precision_of_training():
    model, batch = small_model("llama"), make_batch(UNEVEN[:2], "packed")
    losses = [loss_and_gradients(model, batch, runtime)[0] for runtime in (FLOAT32, BFLOAT16)]
    assert losses[0] != losses[1]
    for runtime, loss in zip((FLOAT32, BFLOAT16), losses, strict=True):
        to_batch = batch_maker(train_params(), runtime, END)
        found = evaluate(LossModule(model), UNEVEN[:2], to_batch, runtime=runtime, parallel=ALONE)
        assert found == pytest.approx(loss, rel=1e-6)


def adamw_by_hand(weights, gradients, moments, step, lr, decay):
    """Algorithm 2 of Loshchilov & Hutter (2019) in double precision, with the defaults of Kingma & Ba (2015)."""
    for name, gradient in gradients.items():
        first, second = moments.get(name, (0.0, 0.0))
        moments[name] = first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        update = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        decayed = lr * decay * weights[name] if weights[name].ndim >= 2 else 0.0
        weights[name] = weights[name] - decayed - lr * update


@families
def test_each_step_is_that_of_adamw_at_its_own_rate(family):
    params = train_params(weight_decay=0.3, max_grad_norm=1e9, lr=0.05, micro_batch_size=8)
    model = small_model(family)
    module, optimizer, to_batch = LossModule(model), make_optimizer(model, params), batch_maker(params, FLOAT32, END)
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    # Other records in each step: with equal gradients the moments, whatever their decay, cancel out.
    for step, lr in enumerate((0.001, 0.004, 0.002, 0.003), 1):
        examples = UNEVEN[2 * step - 2 : 2 * step]
        _, found = loss_and_gradients(model, make_batch(examples, "padded"))
        gradients = {name: gradient.double() for name, gradient in found.items() if gradient is not None}
        model.zero_grad(set_to_none=True)
        expected = {name: weight.detach().double() for name, weight in model.named_parameters()}
        adamw_by_hand(expected, gradients, moments, step, lr, 0.3)
        take_step(module, optimizer, examples, to_batch, lr=lr, params=params, runtime=FLOAT32, parallel=ALONE)
        for name, weight in model.named_parameters():
            firm = gradients[name].abs() > 1e-3  # of a smaller gradient rounding decides the sign
            torch.testing.assert_close(weight.detach().double()[firm], expected[name][firm], rtol=0, atol=lr / 50)


@families
def test_optimizer_decays_only_matrices(family):
    """AdamW without a gradient only decays: by lr x weight_decay of the weight."""
    model = small_model(family)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = make_optimizer(model, train_params(lr=0.1, weight_decay=0.5))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    kinds = set()
    for name, weight in model.named_parameters():
        factor = 0.95 if weight.ndim >= 2 else 1.0
        torch.testing.assert_close(weight.detach(), before[name] * factor, msg=name)
        kinds.add(factor)
    assert kinds == {0.95, 1.0}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_every_epoch_shows_every_record_once_in_a_new_order_of_the_seed():
    examples = random_examples(10)
    params = train_params(epochs=3, micro_batch_size=2, grad_accum_steps=2)
    steps = list(draw_steps(examples, params))
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    orders = [[item.id for step in steps[i : i + 3] for item in step] for i in (0, 3, 6)]
    for order in orders:
        assert sorted(order) == sorted(item.id for item in examples)
    assert orders[0] != orders[1] != orders[2]
    assert list(draw_steps(examples, params)) == steps
    assert list(draw_steps(examples, train_params(epochs=3, micro_batch_size=2, grad_accum_steps=2, seed=9))) != steps


def batches_that_count(examples, params, world_size):
    """All ranks' micro-batches of one step but those that only keep step; each rank has equally many."""
    to_batch = batch_maker(params, FLOAT32, END)
    of_ranks = [
        micro_batches(examples, to_batch, size=params.step_size, parallel=Parallel("ddp", rank, world_size, rank))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in of_ranks}) == 1
    return [batch for batches in of_ranks for batch in batches if batch.weights.any()]


@pytest.mark.parametrize(
    ("world_size", "count", "batches"), thinned([1, 2, 3, 4], [12, 8, 5, 2, 1], [(12, 1), (4, 3), (1, 12), (3, 4)])
)
def test_ranks_share_a_step_without_loss_and_with_equally_many_micro_batches(world_size, count, batches):
    examples, (micro, accumulated) = random_examples(count), batches
    params = train_params(micro_batch_size=micro, grad_accum_steps=accumulated)
    weighing = batches_that_count(examples, params, world_size)
    assert sum(batch.tokens for batch in weighing) == sum(len(item.ids) for item in examples)
    supervised = sum(len(item.ids) - item.prompt_length for item in examples)
    assert sum(float(batch.weights.sum()) for batch in weighing) == supervised
    assert max(batch.labels.tolist().count(END) for batch in weighing) <= max(micro // world_size, 1)


@pytest.mark.parametrize("tokens", [1, 20, 37, 60, 10_000])
def test_steps_counted_in_tokens_hold_as_many_records_in_a_row_as_fit(tokens):
    examples = random_examples(40, seed=3)
    params = train_params(tokens_per_step=tokens, micro_batch_size=1)
    steps = list(draw_steps(examples, params))
    assert sorted(item.id for step in steps for item in step) == sorted(item.id for item in examples)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        held = sum(len(item.ids) for item in step)
        assert held <= tokens or len(step) == 1
        assert following is None or held + len(following[0].ids) > tokens


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("accumulated", [1, 2, 5])
def test_ranks_share_a_step_counted_in_tokens_without_loss(world_size, accumulated):
    examples = random_examples(9, seed=4)
    budget = sum(len(item.ids) for item in examples)
    params = train_params(tokens_per_step=budget, grad_accum_steps=accumulated)
    weighing = batches_that_count(examples, params, world_size)
    assert sum(batch.tokens for batch in weighing) == budget
    most = max(max(len(item.ids) for item in examples), math.ceil(budget / (accumulated * world_size)))
    assert all(batch.tokens <= most for batch in weighing)


def test_steps_counted_in_tokens_or_in_records_train_alike_where_they_hold_the_same(tmp_path):
    """Records of equal length: 4 of them are 4 times the tokens."""
    even = [example([5, 6, i], [7, 8], f"r{i}") for i in range(12)]
    by_count = run_training(small_model("gpt2"), open_store(tmp_path / "a"), even, even, micro_batch_size=4)
    by_tokens = run_training(
        small_model("gpt2"), open_store(tmp_path / "b"), even, even, micro_batch_size=4,
        tokens_per_step=4 * len(even[0].ids),
    )  # fmt: skip
    assert by_tokens == by_count


@pytest.mark.parametrize(("count", "expected"), [(0, 10), (10, 10), (11, 10), (4, 4), (1, 1)])
def test_evaluation_takes_so_many_records_evenly_spread_and_always_the_same(count, expected):
    records = random_examples(10)
    taken = spread(records, count)
    places = [records.index(record) for record in taken]
    assert len(places) == expected and places == sorted(set(places)) and places[0] == 0
    assert {b - a for a, b in pairwise(places)} <= {10 // expected, 10 // expected + 1}


# What happened so far


def val(step: int, loss: float) -> ValPoint:
    return ValPoint(step=step, epoch=step / 10, tokens=100 * step, loss=loss)


def test_best_and_patience_by_hand():
    # the loss before the first step counts neither as best nor towards patience; an equal loss is not better
    history = History()
    losses = [1.0, 3.0, 2.0, 2.0, 2.5, 1.5, 1.5000001, math.pi]
    better = [False, True, True, False, False, True, False, False]
    without = [0, 0, 0, 1, 2, 0, 1, 2]
    for step, (loss, is_better, count) in enumerate(zip(losses, better, without, strict=True)):
        assert history.add_evaluation(val(step, loss)) == is_better
        assert history.without_better == count
        if step:
            assert history.best.step == max(i for i in range(step + 1) if better[i])


def test_best_is_the_earliest_of_equal_evaluations():
    history = History(val=[val(0, 0.5), val(5, 2.0), val(10, 2.0)])
    assert history.best.step == 5


def test_history_goes_through_json_exactly():
    rng = random.Random(7)

    def number() -> float:
        return rng.choice([rng.random(), rng.random() * 10 ** rng.randint(-300, 300), 5e-324, 1 / 3, 0.1 + 0.2])

    history = History(
        train=[
            TrainPoint(
                step=i + 1,
                epoch=number(),
                tokens=rng.randint(0, 10**15),
                lr=number(),
                loss=number(),
                grad_norm=number(),
            )
            for i in range(200)
        ],
        val=[val(i, number()) for i in range(50)],
        without_better=3,
        stopped_early=True,
    )
    assert History.restore(json.loads(json.dumps(asdict(history)))) == history


# Whole runs


TRAIN_SET, VAL_SET = random_examples(10, seed=1), random_examples(4, seed=2)


def test_curve_counts_steps_epochs_tokens_and_rates(tmp_path):
    history = run_training(
        small_model("gpt2"), open_store(tmp_path), TRAIN_SET, VAL_SET, epochs=2, lr=0.01, lr_floor=0.0, warmup_steps=2
    )
    assert [point.step for point in history.train] == [1, 2, 3, 4, 5, 6]
    assert [point.epoch for point in history.train] == pytest.approx([0.4, 0.8, 1, 1.4, 1.8, 2])
    assert history.train[2].tokens == sum(len(item.ids) for item in TRAIN_SET)
    assert history.tokens == 2 * history.train[2].tokens
    # warm-up over two steps, then a cosine over the last four: 1, 3/4, 1/4, 0 of the peak
    assert [point.lr for point in history.train] == pytest.approx([0.005, 0.01, 0.01, 0.0075, 0.0025, 0.0])
    assert [point.step for point in history.val] == [0, 3, 6]
    assert not history.stopped_early


def test_loss_before_the_first_step_is_the_backbones(tmp_path):
    history = run_training(small_model("gpt2"), open_store(tmp_path), TRAIN_SET, VAL_SET)
    expected, _ = loss_and_gradients(small_model("gpt2"), make_batch(VAL_SET, "padded"))
    assert history.val[0].step == 0
    assert history.val[0].loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_training_learns_its_records_by_heart(tmp_path, family):
    history = run_training(small_model(family), open_store(tmp_path), TRAIN_SET, TRAIN_SET, epochs=60, save_minutes=0.0)
    assert history.val[-1].loss < 0.2 < 3 < history.val[0].loss


@families
def test_packed_run_equals_padded_run(tmp_path, family):
    curves = []
    for batching in ("packed", "padded"):
        history = run_training(
            small_model(family), open_store(tmp_path / batching), TRAIN_SET, VAL_SET,
            epochs=3, batching=batching, prompt_loss_weight=0.3, lr=0.003,
        )  # fmt: skip
        curves.append([(point.loss, point.grad_norm) for point in history.train])
    for packed, padded in zip(*curves, strict=True):
        assert packed == pytest.approx(padded, rel=1e-3)


def test_recomputing_activations_changes_no_byte(tmp_path):
    weights = []
    for recompute in (False, True):
        model = small_model("gpt2")
        add_lora(model, lora_params(r=2, dropout=0.3), seed=0)
        run_training(model, open_store(tmp_path), TRAIN_SET, VAL_SET, recompute_activations=recompute, save_minutes=0.0)
        weights.append(weights_of(model))
    assert weights[0] == weights[1]


def test_bf16_run_keeps_float32_weights_and_follows_the_exact_one(tmp_path):
    exact = run_training(small_model("gpt2"), open_store(tmp_path / "a"), TRAIN_SET, VAL_SET, lr=0.003, epochs=2)
    model = small_model("gpt2")
    rough = run_training(model, open_store(tmp_path / "b"), TRAIN_SET, VAL_SET, lr=0.003, epochs=2, runtime=BFLOAT16)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert [p.loss for p in rough.train] == pytest.approx([p.loss for p in exact.train], rel=0.05)
    assert [p.loss for p in rough.train] != [p.loss for p in exact.train]


def test_training_stops_early_after_patience_and_best_stays_behind(tmp_path):
    """Records of random tokens are learnt by heart, which makes others ever less likely."""
    seen: list[ValPoint] = []
    weights: list[dict[str, bytes]] = []
    model = small_model("gpt2")

    def note(point: ValPoint) -> None:
        seen.append(point)
        weights.append(weights_of(model))

    trainer = make_trainer(
        model, open_store(tmp_path), TRAIN_SET, VAL_SET, note,
        epochs=30, eval_every=2, patience=3, lr=0.01, save_minutes=0.0,
    )  # fmt: skip
    history = trainer.fit()
    assert history.stopped_early
    assert history.val == seen
    losses = [point.loss for point in history.val[1:]]
    lowest = losses.index(min(losses))
    assert len(losses) == lowest + 1 + 3
    assert history.step == history.val[-1].step < 90
    assert history.best.step == history.val[1 + lowest].step
    assert trainer.best is not None
    best = {name: tensor.numpy().tobytes() for name, tensor in trainer.best.tensors().items()}
    assert best == weights[1 + lowest] != weights[-1]


@pytest.mark.parametrize(("steps", "early"), [(6, False), (9, True)])
def test_run_that_ends_as_its_patience_does_was_not_stopped_early(tmp_path, monkeypatch, steps, early):
    losses = iter(range(1, 9))
    monkeypatch.setattr("instruct.training.trainer.evaluate", lambda *args, **options: float(next(losses)))
    history = run_training(
        small_model("gpt2"), open_store(tmp_path), TRAIN_SET, VAL_SET,
        epochs=steps // 3, eval_every=3, patience=1, save_minutes=0.0,
    )  # fmt: skip
    assert history.step == 6 and history.stopped_early is early


def test_patience_zero_never_stops(tmp_path):
    history = run_training(
        small_model("gpt2"),
        open_store(tmp_path),
        TRAIN_SET,
        VAL_SET,
        epochs=20,
        eval_every=2,
        lr=0.01,
        save_minutes=0.0,
    )
    assert history.step == 60 and not history.stopped_early
    losses = [point.loss for point in history.val[1:]]
    assert losses.index(min(losses)) < len(losses) - 5


# Numbers that are none


def poisoned_model():
    """A model whose place 50 is no number, and which is sound for shorter records."""
    model = small_model("gpt2")
    with torch.no_grad():
        model.wpe.weight[50] = math.nan
    return model


def test_loss_that_is_no_number_stops_naming_step_and_records(tmp_path):
    long = example([1, 2, 3], range(10, 65), "the long one")
    train_set = [*TRAIN_SET, long]

    def bad_step(seed: int) -> int:
        return next(i for i, step in enumerate(draw_steps(train_set, train_params(seed=seed))) if long in step)

    seed = next(seed for seed in range(100) if bad_step(seed) == 2)
    records = next(step for step in draw_steps(train_set, train_params(seed=seed)) if long in step)
    store, model = open_store(tmp_path / "resume"), poisoned_model()
    weights: list[dict[str, bytes]] = []
    trainer = make_trainer(
        model, store, train_set, VAL_SET, lambda _: weights.append(weights_of(model)), seed=seed, eval_every=1
    )
    with pytest.raises(InstructError, match=r"step 3: the loss is nan and the gradient's norm nan") as error:
        trainer.fit()
    assert all(item.id in str(error.value) for item in records)
    assert weights_of(model) == weights[2], "the bad step must not reach the weights"
    progress = store.load(model, make_optimizer(model, train_params()))
    assert progress is not None and History.restore(progress).step == 2


@pytest.mark.parametrize("numbers", [(1.0, math.inf), (1.0, math.nan), (math.nan, 1.0)])
def test_either_of_loss_and_norm_that_is_no_number_stops(tmp_path, monkeypatch, numbers):
    """A step with a sound loss and a gradient that is none changes no weight: the run would go on and learn nothing."""
    trainer = make_trainer(small_model("gpt2"), open_store(tmp_path), TRAIN_SET, VAL_SET)
    monkeypatch.setattr(trainer, "_take", lambda examples, lr: numbers)
    with pytest.raises(InstructError, match="step 1: the loss is"):
        trainer.fit()


def test_validation_loss_that_is_no_number_stops_in_words(tmp_path):
    long = [example([1, 2, 3], range(10, 65), "long")]
    with pytest.raises(InstructError, match=r"step 0: .* nan"):
        run_training(poisoned_model(), open_store(tmp_path), TRAIN_SET, long)


def test_gradient_that_is_no_number_leaves_the_weights_alone():
    model = small_model("gpt2")
    with torch.no_grad():
        model.ln_f.weight[0] = math.inf
    before, params = weights_of(model), train_params()
    loss, norm = take_step(
        LossModule(model), make_optimizer(model, params), TRAIN_SET[:4], batch_maker(params, FLOAT32, END),
        lr=0.1, params=params, runtime=FLOAT32, parallel=ALONE,
    )  # fmt: skip
    assert not math.isfinite(loss) and not math.isfinite(norm)
    assert weights_of(model) == before


# Ctrl-C


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_ends_at_the_steps_end_with_the_state_saved(tmp_path, sent):
    store = open_store(tmp_path)

    def interrupt(point: ValPoint) -> None:
        if point.step == 3:
            os.kill(os.getpid(), sent)

    before = signal.getsignal(sent)
    with pytest.raises(KeyboardInterrupt, match=r"step 3 of 6.*`dvc repro`.*`git restore metrics && dvc checkout`"):
        run_training(small_model("gpt2"), store, TRAIN_SET, VAL_SET, interrupt, epochs=2, save_minutes=0.0)
    assert signal.getsignal(sent) is before
    model = small_model("gpt2")
    progress = store.load(model, make_optimizer(model, train_params()))
    assert progress is not None and History.restore(progress).step == 3


def test_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interrupt_flag() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupted
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_interrupts_at_once_count_as_one_and_a_later_one_ends_at_once():
    with interrupt_flag() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted
        time.sleep(1.05)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_batches_are_made_for_the_device_in_use():
    batch = batch_maker(train_params(), FLOAT32, END)(TRAIN_SET[:2])
    assert batch.input_ids.device == CPU


def test_run_says_at_its_start_what_it_will_do(tmp_path, caplog):
    caplog.set_level("INFO")
    run_training(small_model("gpt2"), open_store(tmp_path), TRAIN_SET, VAL_SET, epochs=2)
    first = caplog.messages[0]
    assert all(
        part in first for part in ("6 steps", "20 records", "4 records every 3 steps", "cpu", "float32", "about")
    )


def test_progress_is_told_with_the_loss_where_there_is_no_terminal(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("instruct.core.progress.LOG_S", 0.0)
    caplog.set_level("INFO")
    history = run_training(small_model("gpt2"), open_store(tmp_path), TRAIN_SET, VAL_SET, epochs=2)
    lines = [message for message in caplog.messages if " of 6 steps" in message]
    assert [f"loss {point.loss:.3f}" in line for point, line in zip(history.train, lines, strict=True)] == [True] * 6
    assert all("a second" in line and "s left" in line for line in lines[:-1])
