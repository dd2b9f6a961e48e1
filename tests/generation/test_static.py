"""The engine of GPUs: its steps run one by one on a CPU must answer as the CPU's engine does."""

import logging
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from generation.conftest import one_family
from generation.test_decode import ALPACA, make_prompts
from grids import thinned

from instruct.core.errors import CheckpointError
from instruct.core.runtime import Runtime
from instruct.generation import decode
from instruct.generation.decode import generate
from instruct.generation.static import BURST, StaticEngine
from instruct.generation.weights import CastLinear, ReadyDecoder, make_ready
from instruct.model.linear import Linear

CUDA = torch.device("cuda")
WAYS = {
    "all at once": {},
    "rows come and go": {"batch_size": 5},
    "an answer ends within a burst": {"max_new_tokens": BURST + 3},
    "an answer ends before a burst": {"max_new_tokens": 2},
    "drawn": {"temperature": 1.0, "top_k": 40, "top_p": 0.9},
    "stopped when it repeats itself": {"max_repeats": 2, "max_new_tokens": 18},
}


def answers(model, tokenizer, params, runtime, stop_strings=(), prompts=None):
    return generate(
        model, tokenizer, prompts or make_prompts(12), prefix=ALPACA.prefix, stop_strings=stop_strings, params=params,
        runtime=runtime,
    )  # fmt: skip


@pytest.fixture
def fixed_shapes(monkeypatch):
    monkeypatch.setitem(decode.ENGINES, "cpu", StaticEngine)


@pytest.fixture
def both(small, tokenizer, runtime, monkeypatch):
    """The answers of the CPU's engine and of the one with fixed shapes."""

    def run(params, **options):
        expected = answers(small, tokenizer, params, runtime, **options)
        with monkeypatch.context() as patch:
            patch.setitem(decode.ENGINES, "cpu", StaticEngine)
            return expected, answers(small, tokenizer, params, runtime, **options)

    return run


@pytest.mark.parametrize(("changes", "small"), thinned(WAYS, ["gpt2", "llama"], together=1), indirect=["small"])
def test_answers_equal_those_of_the_other_engine(both, params, changes):
    expected, got = both(replace(params, **changes))
    assert got == expected
    assert len({one.text for one in got.values()}) > 8


@one_family
def test_a_stop_string_within_a_burst_ends_the_answer_there(both, params):
    free, _ = both(params)
    stop = next(one.text for one in free.values() if len(one.text) > 12)[5:9]
    expected, got = both(params, stop_strings=(stop,))
    assert got == expected
    assert "stop_string" in {one.stop_reason for one in got.values()}


def test_a_prompt_that_fills_the_context_is_answered_to_its_end(both, params):
    prompts = {"long": ALPACA.render("word " * 300), "short": ALPACA.render("sun")}
    expected, got = both(replace(params, over_long="truncate", max_new_tokens=3), prompts=prompts)
    assert got == expected


def test_logits_of_each_step_equal_those_of_the_whole_text(small, tokenizer):
    prefix = tokenizer.encode(ALPACA.prefix)
    parts = [tokenizer.encode(text) for text in ("sun and moon", "river", "a stone in the lake")]
    engine = StaticEngine(small, prefix, slots=3, capacity=32, vocab_size=tokenizer.vocab_size)
    with torch.inference_mode():
        texts = [[*prefix, *part] for part in parts]
        seen = [engine.prefill(parts, first=0)]
        for _ in range(4):
            for text, logits in zip(texts, seen[-1], strict=True):
                text.append(int(logits.argmax()))
            seen.append(engine.decode([text[-1] for text in texts]).clone())
        for row, text in enumerate(texts):
            whole = small(torch.tensor([text]))[0]
            for step, logits in enumerate(seen):
                torch.testing.assert_close(logits[row], whole[len(text) - 5 + step], rtol=1e-3, atol=1e-4)


def test_rows_in_use_are_rounded_up_to_few_buckets(small, tokenizer):
    engine = StaticEngine(small, [], slots=110, capacity=16, vocab_size=tokenizer.vocab_size)
    buckets = [engine._bucket(count) for count in range(1, 111)]
    assert set(buckets) == {16, 64, 112}
    assert all(bucket >= count for count, bucket in enumerate(buckets, start=1))


def test_weights_that_give_no_numbers_are_named_in_a_burst_too(small, tokenizer, params, runtime, fixed_shapes):
    broken = deepcopy(small)
    original, calls = broken.logits, []

    def logits(hidden):
        calls.append(None)
        return original(hidden) if len(calls) < 3 else original(hidden) * torch.nan

    broken.logits = logits
    with pytest.raises(CheckpointError, match="a"):
        answers(broken, tokenizer, params, runtime, prompts={"a": ALPACA.render("sun")})


@one_family
@pytest.mark.parametrize("what", ["cannot be recorded", "differs"])
def test_a_step_that_cannot_be_replayed_runs_operation_by_operation(
    both, small, params, tokenizer, runtime, fixed_shapes, monkeypatch, caplog, what
):
    """Recording itself needs CUDA; what follows when it fails does not."""
    original, engines = StaticEngine.__init__, []

    def recording(self, *arguments, **options):
        original(self, *arguments, **options)
        self._records = True
        engines.append(self)

    def record(self, rows, step, before):
        step()  # what was computed on the way must not count
        if what == "differs":
            return None, 1.0
        raise RuntimeError("no recording here")

    expected = answers(small, tokenizer, params, runtime)
    monkeypatch.setattr(StaticEngine, "__init__", recording)
    monkeypatch.setattr(StaticEngine, "_record", record)
    with caplog.at_level(logging.INFO):
        assert answers(small, tokenizer, params, runtime) == expected
    assert engines and len([line for line in caplog.messages if "it runs slower" in line]) == len(engines)


def test_a_weight_cast_once_gives_the_bits_of_one_cast_at_every_call():
    torch.manual_seed(0)
    layer, x = Linear(64, 48), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        expected = layer(x)
        assert torch.equal(CastLinear(layer.weight, layer.bias, dtype=torch.bfloat16)(x), expected)
    assert expected.dtype is torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_recorded_answers_equal_those_of_a_cpu(small, tokenizer, params, runtime, caplog, changes):
    params = replace(params, **changes)
    expected = answers(small, tokenizer, params, runtime)
    with caplog.at_level(logging.INFO):
        got = answers(deepcopy(small).to(CUDA), tokenizer, params, Runtime(CUDA, torch.float32))
    # A draw that falls between the rounding of two devices takes another token, and the answer goes on from there.
    others = [id_ for id_ in expected if got[id_] != expected[id_]]
    assert len(others) <= (params.temperature > 0), others
    assert any("recorded as a CUDA graph" in line for line in caplog.messages), caplog.messages


@pytest.mark.gpu
def test_recorded_answers_in_bf16_are_the_same_each_time_and_mostly_those_of_fp32(
    small, tokenizer, params, runtime, caplog
):
    low = Runtime(CUDA, torch.bfloat16)
    ready = make_ready(deepcopy(small).to(CUDA), "fp32", low)
    assert isinstance(ready, ReadyDecoder)
    with caplog.at_level(logging.INFO):
        got = answers(ready, tokenizer, params, low)
    assert answers(ready, tokenizer, params, low) == got
    assert any("recorded as a CUDA graph" in line for line in caplog.messages), caplog.messages
    exact = answers(small, tokenizer, params, runtime)
    first = [got[id_].text.split(" ")[0] == exact[id_].text.split(" ")[0] for id_ in got]
    assert sum(first) >= len(first) // 2
