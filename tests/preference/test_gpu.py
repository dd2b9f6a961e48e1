"""Preference tuning on a GPU: the same losses, gradients and log-probs as on a CPU, the same bytes each time."""

import math
from dataclasses import replace

import pytest
import torch
from small_preference import make_preferrer, prefer_params, random_pairs
from small_training import END, FAMILIES, lora_params, open_store, small_model, weights_of

from instruct.core.runtime import Runtime
from instruct.model.lora import add_lora
from instruct.preference.collate import collate_pairs
from instruct.preference.loss import PairLoss, log_probs
from instruct.preference.reference import measure

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lora", [None, lora_params(r=2, dropout=0.3)], ids=["full", "adapters"])
def test_two_runs_on_the_same_card_give_the_same_bytes_and_learn(tmp_path, dtype, lora):
    pairs = measured(small_model("gpt2"), random_pairs(24), CUDA, dtype=dtype)

    def run(name):
        model = small_model("gpt2")
        changes = {}
        if lora:
            add_lora(model, lora, seed=0)
            changes["lora"] = lora
        trainer = make_preferrer(
            model.to(CUDA), open_store(tmp_path / name, code="1"), pairs[:20], pairs[20:],
            runtime=Runtime(CUDA, dtype), epochs=4, **changes,
        )  # fmt: skip
        return trainer.fit(), weights_of(model.cpu())

    history, weights = run("a")
    assert run("b") == (history, weights)
    assert history.train[-1].loss < history.train[0].loss
