import pytest
import torch
import torch.nn.functional as F

from instruct.core.processor import this_processor
from instruct.model import linear as linear_module
from instruct.model.kernels import BLAS, ONEDNN, TABLE
from instruct.model.linear import PackedLinear, can_pack, linear

SHAPES = [(64, 192), (768, 2304), (3072, 768), (576, 192), (1536, 576), (192, 5000)]
COUNTS = [2, 3, 15, 16, 17, 31, 33, 64, 65, 110, 128, 200]
needs_onednn = pytest.mark.skipif(
    not can_pack(torch.ones(2, 2)), reason="this processor has no kernels of oneDNN to pack for"
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 64), (2, 7, 64), (1, 1, 1, 64), (64,), (0, 64)])
def test_product_and_gradients_equal_torch_in_double_precision(shape, with_bias):
    x, weight = draw(*shape).requires_grad_(), draw(48, 64, seed=1).requires_grad_()
    bias = draw(48, seed=2).requires_grad_() if with_bias else None
    given = [tensor for tensor in (x, weight, bias) if tensor is not None]
    doubles = [tensor.detach().double().requires_grad_() for tensor in given]
    ours, exact = linear(x, weight, bias), F.linear(*doubles)
    torch.testing.assert_close(ours, exact.float(), rtol=1e-5, atol=1e-5)
    weighting = draw(*exact.shape, seed=3)
    (ours * weighting).sum().backward()
    (exact * weighting.double()).sum().backward()
    for found, expected in zip(given, doubles, strict=True):
        torch.testing.assert_close(found.grad, expected.grad.float(), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("frozen", ["nothing", "weight", "input"])
@pytest.mark.parametrize("chosen", [BLAS, ONEDNN, *TABLE.values()], ids=["blas", "onednn", *map("-".join, TABLE)])
def test_gradients_are_the_same_by_any_processors_kernels(monkeypatch, chosen, frozen):
    monkeypatch.setattr(linear_module, "kernels", lambda: chosen)
    x, weight, weighting = draw(7, 64), draw(48, 64, seed=1), draw(7, 48, seed=2)
    x.requires_grad_(frozen != "input")
    weight.requires_grad_(frozen != "weight")
    product = linear(x, weight)
    torch.testing.assert_close(product, (x.double() @ weight.double().t()).float(), rtol=1e-5, atol=1e-4)
    (product * weighting).sum().backward()
    if frozen != "input":
        expected = (weighting.double() @ weight.detach().double()).float()
        torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-3)
    if frozen != "weight":
        expected = (weighting.double().t() @ x.detach().double()).float()
        torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chosen", [ONEDNN, *TABLE.values()], ids=["onednn", *map("-".join, TABLE)])
def test_a_processors_kernels_are_those_that_its_table_names(monkeypatch, chosen):
    """Counted: oneDNN's product forward and for each gradient, or none of them."""
    calls = []

    def count(rows, weight, bias):
        calls.append(1)
        return F.linear(rows, weight, bias)

    monkeypatch.setattr(linear_module, "kernels", lambda: chosen)
    monkeypatch.setattr(linear_module, "onednn_product", count)
    x, weight = draw(7, 64).requires_grad_(), draw(48, 64, seed=1).requires_grad_()
    linear(x, weight).sum().backward()
    assert len(calls) == 1 + chosen.gradient_of_input + chosen.gradient_of_weight
    with torch.no_grad():
        linear(x, weight)
    assert len(calls) == 2 + chosen.gradient_of_input + chosen.gradient_of_weight


def test_what_is_frozen_gets_no_gradient():
    x, weight = draw(3, 8).requires_grad_(), draw(4, 8)
    linear(x, weight).sum().backward()
    assert weight.grad is None and x.grad is not None


@pytest.mark.parametrize("frozen", [True, False])
def test_activations_are_kept_only_for_a_weight_that_is_trained(frozen):
    x, weight, kept = draw(3, 8).requires_grad_(), draw(4, 8).requires_grad_(not frozen), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()), lambda _: None):
        linear(x.clone(), weight)
    activations = set(kept) - {weight.data_ptr()}
    assert bool(activations) is not frozen


def test_strided_input_and_weight_are_read_as_they_are():
    x, weight = draw(3, 4, 8).transpose(0, 1), draw(8, 6).t()
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["autocast", "double"])
def test_other_precisions_are_torch_s_own(precision):
    x, weight = draw(3, 8), draw(4, 8)
    if precision == "double":
        assert torch.equal(linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
        return
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype is torch.bfloat16
        assert torch.equal(linear(x, weight), F.linear(x, weight))


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_row_is_the_same_to_the_bit_whatever_the_others_are_and_packed(inputs, outputs, dtype):
    if dtype is torch.bfloat16 and not this_processor().multiplies_bf16:
        pytest.skip("this processor does not multiply in bfloat16")
    x, weight, bias = draw(256, inputs), draw(outputs, inputs, seed=1), draw(outputs, seed=2)
    packed = PackedLinear(weight, bias, dtype=dtype)
    whole = packed(x)
    with torch.inference_mode():
        if dtype is torch.float32:
            assert torch.equal(linear(x, weight, bias), whole)
        for count in COUNTS:
            assert torch.equal(packed(x[:count]), whole[:count]), count
            assert torch.equal(packed(x[-count:]), whole[-count:]), count
