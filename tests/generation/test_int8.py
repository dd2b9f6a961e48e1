from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from instruct.core.errors import ParamsError
from instruct.core.runtime import Runtime
from instruct.generation import int8, weights
from instruct.generation.decode import generate
from instruct.generation.int8 import Int8Linear, pays, to_int8
from instruct.generation.weights import make_ready
from instruct.model.decoder import attend_causally

PROMPTS = {f"p{i}": f"Prompt {i}: say {'word ' * (i % 5)}{i * i}." for i in range(18)}
needs_int8 = pytest.mark.skipif(not pays(), reason="this processor has no instructions for int8")


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_rounding_is_within_half_a_step_and_keeps_rows_of_zeros():
    rows = torch.cat((draw(5, 40), torch.zeros(1, 40)))
    whole, scale = to_int8(rows)
    assert whole.dtype is torch.int8 and int(whole.abs().max()) == 127
    assert ((whole * scale - rows).abs() <= scale / 2 + 1e-7).all()
    assert not whole[-1].any()


@needs_int8
def test_product_is_exactly_that_of_the_rounded_numbers():
    weight, bias, x = draw(30, 64), draw(30), draw(2, 7, 64)
    (whole, scale), (rows, steps) = to_int8(weight), to_int8(x.flatten(0, 1))
    expected = (rows.double() @ whole.double().t()) * steps.double() * scale.double().t() + bias.double()
    torch.testing.assert_close(Int8Linear(weight, bias)(x).flatten(0, 1), expected.float(), rtol=1e-5, atol=1e-5)


@needs_int8
def test_int8_answers_under_bf16_too(small, tokenizer, params):
    low = Runtime(torch.device("cpu"), torch.bfloat16)
    params = replace(params, weights="int8", max_new_tokens=2)
    model = make_ready(deepcopy(small), "int8", low)
    answers = generate(
        model, tokenizer, {"p1": PROMPTS["p1"]}, prefix="Prompt ", stop_strings=(), runtime=low, params=params
    )
    assert [answer.tokens for answer in answers.values()] == [2]


@needs_int8
def test_logits_are_near_those_of_the_exact_model(small, runtime):
    ids = torch.arange(40)[None]
    positions = torch.arange(40)[None]
    exact = small.logits(small.hidden_states(ids, positions, attend_causally)[0])
    model = make_ready(deepcopy(small), "int8", runtime)
    rounded = model.logits(model.hidden_states(ids, positions, attend_causally)[0])
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.97
    assert not torch.equal(exact, rounded)


@needs_int8
def test_batch_size_and_neighbours_do_not_change_an_answer(small, tokenizer, params, runtime):
    model = make_ready(deepcopy(small), "int8", runtime)

    def answers(prompts, batch_size):
        return generate(
            model, tokenizer, prompts, prefix="Prompt ", stop_strings=(), runtime=runtime,
            params=replace(params, weights="int8", batch_size=batch_size, max_new_tokens=4),
        )  # fmt: skip

    # More rows than a tile of 16, in groups, and alone: each way has other neighbours.
    together = answers(PROMPTS, 64)
    assert answers(PROMPTS, 7) == together
    few = {id_: PROMPTS[id_] for id_ in ("p7", "p16")}
    assert answers(few, 1) == {id_: together[id_] for id_ in few}
    assert len({answer.text for answer in together.values()}) > 5


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_int8_is_refused_where_it_would_be_slower(small, runtime, monkeypatch, device):
    monkeypatch.setattr(type(small), "device", torch.device(device))
    monkeypatch.setattr(weights, "pays", lambda: False)
    with pytest.raises(ParamsError, match=r"generate\.weights"):
        make_ready(small, "int8", runtime)


def test_a_processor_told_to_do_without_its_instructions_has_none(monkeypatch):
    """As under ONEDNN_MAX_CPU_ISA=AVX2: sums of two products saturate in 16 bits."""
    monkeypatch.setattr(int8, "int8_product", lambda rows, weight: torch.full((64, 64), 64 * 2**14))
    assert not pays.__wrapped__()
