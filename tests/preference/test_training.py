"""Preference tuning by the loop that fine-tuning has: what is learnt, told and gone on with."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from small_preference import batch_of, make_preferrer, prefer_params, random_pairs, with_reference
from small_training import END, FLOAT32, lora_params, open_store, small_model, weights_of

from instruct.core.errors import InstructError
from instruct.model.lora import add_lora
from instruct.preference.loss import PairLoss
from instruct.preference.outputs import find_warnings
from instruct.preference.reference import measure
from instruct.training.history import History, ValPoint

pytestmark = pytest.mark.usefixtures("one_thread")


def measured(pairs, model):
    return measure(model, pairs, prefer_params().fit, FLOAT32, END)


def data(family="gpt2", count=10):
    model = small_model(family)
    return measured(random_pairs(count, seed=1), model), measured(random_pairs(5, seed=2), model)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_first_evaluation_is_ln_2_to_the_bit(tmp_path, family):
    """The reference was computed in the batches that evaluations have."""
    trainer = make_preferrer(small_model(family), open_store(tmp_path), *data(family))
    point = trainer.evaluate()
    assert point.loss == math.log(2)
    assert (point.measures["accuracy"], point.measures["margin"], point.measures["kl"]) == (0.5, 0.0, 0.0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_prefers_nothing_to_itself_however_evaluations_are_batched(tmp_path, family):
    """Rounding differs between batches of all pairs and of some, and its sign is no preference."""
    train_set, _ = data(family)
    val_set = measured(random_pairs(40, seed=2, longest=30), small_model(family))
    trainer = make_preferrer(small_model(family), open_store(tmp_path), train_set, val_set, eval_pairs=5)
    point = trainer.evaluate()
    assert point.measures["margin"] != 0.0, "for this test to tell anything"
    assert (point.measures["accuracy"], abs(point.measures["margin"]) < 1e-6) == (0.5, True)


@pytest.mark.parametrize("lora", [None, lora_params(r=2, dropout=0.2)])
def test_resumed_run_equals_unbroken_run(tmp_path, lora):
    settings = {"epochs": 2, "eval_every": 2, "lr": 0.01} | ({"lora": lora} if lora else {})

    class Killed(Exception):
        pass

    def trainer(folder):
        model = small_model("llama")
        train_set, val_set = data("llama")
        if lora:
            add_lora(model, lora, seed=0)
        return model, make_preferrer(model, open_store(folder), train_set, val_set, **settings)

    model, unbroken = trainer(tmp_path / "unbroken")
    expected = unbroken.fit()
    _, cut = trainer(tmp_path / "cut")
    after = cut._after_step

    def kill(interrupted):
        after(interrupted)
        if cut.history.step == 3:
            raise Killed

    cut._after_step = kill
    with pytest.raises(Killed):
        cut.fit()
    again_model, again = trainer(tmp_path / "cut")
    assert again.history.step == 3
    assert asdict(again.fit()) == asdict(expected)
    assert weights_of(again_model) == weights_of(model)
    best, other = again.best.tensors(), unbroken.best.tensors()
    assert best.keys() == other.keys() and all(torch.equal(best[name], other[name]) for name in best)


def test_margin_computed_from_the_best_weights_is_the_logged_one(tmp_path):
    model = small_model("gpt2")
    train_set, val_set = data()
    trainer = make_preferrer(model, open_store(tmp_path), train_set, val_set, epochs=2)
    history = trainer.fit()
    model.load_state_dict(trainer.best.tensors())
    module = PairLoss(model, prefer_params())
    with torch.no_grad():
        loss = float(module(batch_of(val_set))) / len(val_set)
    told = module.take_measures(list)
    assert abs(told["margin"]) > 0.01
    assert loss == pytest.approx(history.best.loss, rel=1e-5)
    assert told == pytest.approx(dict(history.best.measures), rel=1e-4, abs=1e-6)


def test_packed_run_equals_padded_run(tmp_path):
    runs = []
    for batching in ("packed", "padded"):
        train_set, val_set = data()
        trainer = make_preferrer(
            small_model("gpt2"), open_store(tmp_path / batching), train_set, val_set, lr=0.003, batching=batching
        )
        runs.append(trainer.fit())
    assert runs[0].train[0].loss == pytest.approx(math.log(2), rel=1e-5)
    for ours, theirs in zip(runs[0].train[1:], runs[1].train[1:], strict=True):  # at step 1 the margins are rounding
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert ours.measures == pytest.approx(dict(theirs.measures), rel=1e-3, abs=1e-4)
    assert runs[0].step == 3 and runs[0].tokens == sum(pair.token_count for pair in data()[0])


def test_grad_accumulation_equals_one_batch(tmp_path):
    runs = []
    for size, parts in ((4, 1), (1, 4), (2, 2)):
        store = open_store(tmp_path / str(size))
        settings = {"micro_batch_size": size, "grad_accum_steps": parts, "lr": 0.003}
        runs.append(make_preferrer(small_model("llama"), store, *data("llama"), **settings).fit())
    for run in runs[1:]:
        assert [point.loss for point in run.train] == pytest.approx([point.loss for point in runs[0].train], rel=1e-4)
        for ours, theirs in zip(run.train[1:], runs[0].train[1:], strict=True):  # at step 1 the margins are rounding
            assert ours.measures == pytest.approx(dict(theirs.measures), rel=1e-3, abs=1e-4)


def planted(count, seed, model, shuffled=False):
    """Answers of tokens from the upper half of the vocabulary are better than others, or drawn at random."""
    rng = torch.Generator().manual_seed(seed)
    pairs = []
    for pair in random_pairs(count, longest=6, seed=seed):
        sides = []
        for side, low in ((pair.chosen, 48), (pair.rejected, 0)):
            answer = torch.randint(low, low + 48, (len(side.ids) - side.prompt_length - 1,), generator=rng).tolist()
            sides.append(replace(side, ids=(*side.ids[: side.prompt_length], *answer, END)))
        if shuffled and torch.rand((), generator=rng) < 0.5:
            sides.reverse()
        pairs.append(replace(pair, chosen=sides[0], rejected=sides[1]))
    return measured(pairs, model)


def test_planted_preference_is_learnt_and_holds_on_other_pairs(tmp_path):
    model = small_model("gpt2")
    train_set, val_set = planted(64, 1, model), planted(40, 2, model)
    history = make_preferrer(
        model, open_store(tmp_path), train_set, val_set, epochs=4, micro_batch_size=8, eval_every=8
    ).fit()
    assert history.val[0].measures["accuracy"] == 0.5
    assert history.best.measures["accuracy"] > 0.95 and history.best.measures["margin"] > 1
    assert history.best.measures["kl"] != 0


def test_shuffled_labels_teach_nothing_that_holds_on_other_pairs(tmp_path):
    model = small_model("gpt2")
    train_set, val_set = planted(64, 1, model, shuffled=True), planted(100, 2, model, shuffled=True)
    history = make_preferrer(
        model, open_store(tmp_path), train_set, val_set, epochs=4, micro_batch_size=8, eval_every=8
    ).fit()
    # of 100 pairs chance tells 40 to 60 in 95 of 100 runs
    assert all(0.35 <= point.measures["accuracy"] <= 0.65 for point in history.val)


def test_another_seed_draws_another_order(tmp_path):
    train_set, val_set = data()
    orders = [
        [[pair.id for pair in step] for step in trainer.steps]
        for seed in (1, 1, 2)
        for trainer in [make_preferrer(small_model("gpt2"), open_store(tmp_path), train_set, val_set, seed=seed)]
    ]
    assert orders[0] == orders[1] != orders[2]


def test_loss_that_is_not_a_number_is_named_with_setting_and_pairs(tmp_path):
    train_set, val_set = data()
    train_set = [replace(train_set[0], id="broken", reference=(math.inf, 0.0)), *train_set[1:]]
    with pytest.raises(InstructError, match=r"the loss is .*lower prefer\.lr or look at the records .*broken"):
        make_preferrer(small_model("gpt2"), open_store(tmp_path), train_set, val_set).fit()


def test_reference_is_measured_in_any_batch_alike():
    model, pairs = small_model("llama"), random_pairs(9, longest=20)
    one = with_reference(pairs, model)
    for ours, theirs in zip(measured(pairs, model), one, strict=True):
        assert ours.id == theirs.id and ours.reference == pytest.approx(theirs.reference, rel=1e-5)


def val_point(step, loss, log_prob, accuracy=0.5):
    return ValPoint(
        step=step, epoch=1.0, tokens=1, loss=loss, measures={"chosen_log_prob": log_prob, "accuracy": accuracy}
    )


@pytest.mark.parametrize(
    ("loss", "log_prob", "accuracy", "words"),
    [
        (0.5, -1.05, 0.8, []),
        (0.5, -1.2, 0.8, ["became less likely"]),
        (0.5, -1.05, 0.7, ["a bag of words"]),
        (0.5, -1.05, 0.6, ["a bag of words"]),
        (0.7, -1.0, 0.8, ["never fell below"]),
        (0.7, -2.0, 0.6, ["became less likely", "a bag of words", "never fell below"]),
    ],
)
def test_what_speaks_against_the_best_weights_is_warned_of(loss, log_prob, accuracy, words):
    history = History(val=[val_point(0, math.log(2), -1.0), val_point(4, loss, log_prob, accuracy)])
    lines = find_warnings(history, {"longer": 0.55, "words": 0.7})
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))


def test_shorter_answers_are_a_simple_rule_too():
    history = History(val=[val_point(0, math.log(2), -1.0), val_point(4, 0.5, -1.0, 0.7)])
    assert ["the shorter answer" in line for line in find_warnings(history, {"longer": 0.25, "words": 0.6})] == [True]
