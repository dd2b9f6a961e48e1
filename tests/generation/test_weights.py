from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from grids import thinned

from instruct.core.runtime import Runtime
from instruct.generation.decode import generate
from instruct.generation.weights import ReadyDecoder, make_ready
from instruct.model.linear import can_pack

PROMPTS = {f"p{i}": f"Prompt {i}: say {'word ' * (i % 5)}{i * i}." for i in range(20)}
BF16 = Runtime(torch.device("cpu"), torch.bfloat16)
needs_onednn = pytest.mark.skipif(
    not can_pack(torch.ones(2, 2)), reason="this processor has no kernels of oneDNN to pack for"
)


def answers(model, tokenizer, params, runtime, **changes):
    params = replace(params, **changes)
    return generate(model, tokenizer, PROMPTS, prefix="Prompt ", stop_strings=(), params=params, runtime=runtime)


@needs_onednn
@pytest.mark.parametrize(
    ("small", "temperature"), thinned(["gpt2", "llama"], [0.0, 1.0], together=1), indirect=["small"]
)
def test_a_ready_model_answers_as_the_model_itself(small, tokenizer, params, runtime, temperature):
    ready = make_ready(deepcopy(small), "fp32", runtime)
    assert isinstance(ready, ReadyDecoder)
    expected = answers(small, tokenizer, params, runtime, temperature=temperature)
    assert answers(ready, tokenizer, params, runtime, temperature=temperature) == expected
    assert answers(ready, tokenizer, params, runtime, temperature=temperature, batch_size=3) == expected


def test_bf16_answers_do_not_depend_on_the_batch_either_and_are_mostly_those_of_fp32(small, tokenizer, params, runtime):
    ready = make_ready(deepcopy(small), "fp32", BF16)
    together = answers(ready, tokenizer, params, BF16)
    assert answers(ready, tokenizer, params, BF16, batch_size=3) == together
    exact = answers(small, tokenizer, params, runtime)
    first = [together[id_].text.split(" ")[0] == exact[id_].text.split(" ")[0] for id_ in PROMPTS]
    assert sum(first) >= len(PROMPTS) // 2
