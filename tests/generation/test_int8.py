import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from instruct.core.errors import ParamsError
from instruct.core.runtime import Runtime
from instruct.generation.decode import generate
from instruct.generation.int8 import Int8Linear, sums_are_exact, to_int8
from instruct.generation.weights import make_ready
from instruct.model.decoder import attend_causally

PROMPTS = {f"p{i}": f"Prompt {i}: say {'word ' * (i % 5)}{i * i}." for i in range(20)}


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_rounding_is_within_half_a_step_and_keeps_rows_of_zeros():
    rows = torch.cat((draw(5, 40), torch.zeros(1, 40)))
    whole, scale = to_int8(rows)
    assert whole.dtype is torch.int8 and int(whole.abs().max()) == 127
    assert ((whole * scale - rows).abs() <= scale / 2 + 1e-7).all()
    assert not whole[-1].any()


def test_product_is_exactly_that_of_the_rounded_numbers():
    weight, bias, x = draw(30, 64), draw(30), draw(2, 7, 64)
    (whole, scale), (rows, steps) = to_int8(weight, 127 if sums_are_exact() else 63), to_int8(x.flatten(0, 1))
    expected = (rows.double() @ whole.double().t()) * steps.double() * scale.double().t() + bias.double()
    torch.testing.assert_close(Int8Linear(weight, bias)(x).flatten(0, 1), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="sets oneDNN's instructions")
def test_a_processor_without_wide_sums_gets_fewer_steps_and_exact_products():
    product = f"{__file__}::{test_product_is_exactly_that_of_the_rounded_numbers.__name__}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", product]
    done = subprocess.run(command, env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_int8_answers_under_bf16_too(small, tokenizer, params):
    low = Runtime(torch.device("cpu"), torch.bfloat16)
    params = replace(params, weights="int8")
    model = make_ready(deepcopy(small), "int8", low)
    answers = generate(model, tokenizer, PROMPTS, prefix="Prompt ", stop_strings=(), runtime=low, params=params)
    assert [answer.tokens for answer in answers.values()] == [params.max_new_tokens] * len(PROMPTS)


def test_logits_are_near_those_of_the_exact_model(small, runtime):
    ids = torch.arange(40)[None]
    positions = torch.arange(40)[None]
    exact = small.logits(small.hidden_states(ids, positions, attend_causally)[0])
    model = make_ready(deepcopy(small), "int8", runtime)
    rounded = model.logits(model.hidden_states(ids, positions, attend_causally)[0])
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.97
    assert not torch.equal(exact, rounded)


def test_batch_size_and_neighbours_do_not_change_an_answer(small, tokenizer, params, runtime):
    model = make_ready(deepcopy(small), "int8", runtime)

    def answers(prompts, batch_size):
        return generate(
            model, tokenizer, prompts, prefix="Prompt ", stop_strings=(), runtime=runtime,
            params=replace(params, weights="int8", batch_size=batch_size),
        )  # fmt: skip

    together = answers(PROMPTS, 64)
    assert answers(PROMPTS, 1) == together == answers(PROMPTS, 3)
    assert answers({"p7": PROMPTS["p7"]}, 64) == {"p7": together["p7"]}
    assert len({answer.text for answer in together.values()}) > 5


def test_other_devices_are_refused_in_words(small, runtime, monkeypatch):
    monkeypatch.setattr(type(small), "device", torch.device("meta"))
    with pytest.raises(ParamsError, match=r"generate\.weights is int8, which is for the CPU; on meta set it to fp32"):
        make_ready(small, "int8", runtime)
