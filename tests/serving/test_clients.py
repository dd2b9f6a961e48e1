"""Clients that others wrote: lm-eval and litellm, whose numbers are transformers' or the engine's."""

import json

import pytest
import torch
from serving.conftest import ALPACA, SERVE, make_system
from serving.in_thread import InThread
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct.model.checkpoint import save_checkpoint
from instruct.serving.server import Served

TEXTS = [
    ("The sun is", " a star."),
    ("Water boils at", " one hundred degrees"),
    ("A", " short one"),
    ("Rain falls on", " hills"),
]


@pytest.fixture(scope="module")
def one_system():
    return make_system("base", 1)


@pytest.fixture(scope="module")
def one_server(one_system):
    running = InThread(Served({"base": one_system}, SERVE))
    yield running
    running.close()


@pytest.fixture(scope="module")
def saved(one_system, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(one_system.model, one_system.tokenizer, folder)
    return folder


def requests_of(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_evals_loglikelihoods_equal_those_of_transformers(one_server, saved):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    named = {"base_url": f"{one_server.url}/v1/completions", "model": "base", "tokenizer": str(saved)}
    model = LocalCompletionsAPI(**named, tokenizer_backend="huggingface", max_length=200, batch_size=2)
    got = model.loglikelihood(requests_of("loglikelihood", TEXTS))
    reference = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    for (context, rest), (logprob, greedy) in zip(TEXTS, got, strict=True):
        before, whole = tokenizer.encode(context), tokenizer.encode(context + rest)
        with torch.no_grad():
            logprobs = reference(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(before), len(whole))
        assert logprob == pytest.approx(sum(float(logprobs[i - 1, whole[i]]) for i in places), abs=1e-3)
        assert greedy == all(int(logprobs[i - 1].argmax()) == whole[i] for i in places)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_evals_generations_equal_the_engines(one_server, one_system, offline):
    from lm_eval.models.openai_completions import LocalChatCompletion

    model = LocalChatCompletion(base_url=f"{one_server.url}/v1/chat/completions", model="base")
    history = [[{"role": "user", "content": text}] for text, _ in TEXTS]
    said = [model.apply_chat_template(one) for one in history]
    options = {"until": ["\n\n"], "max_gen_toks": 12}
    got = model.generate_until(requests_of("generate_until", [(one, options) for one in said]))
    expected = offline(one_system, {text: ALPACA.render(text) for text, _ in TEXTS})
    assert got == [one.split("\n\n")[0].strip() for one in expected.values()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_eval_takes_the_servers_own_tokenizer(one_server, one_system):
    from lm_eval.utils import RemoteTokenizer, check_remote_tokenizer_support

    url = f"{one_server.url}/v1/completions"
    assert check_remote_tokenizer_support(url)
    tokenizer = RemoteTokenizer(url)
    ids = tokenizer.encode(TEXTS[1][0])
    assert ids == one_system.tokenizer.encode(TEXTS[1][0]) and tokenizer.decode(ids) == TEXTS[1][0]
    assert tokenizer.eos_token == "<|endoftext|>"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_litellm_says_what_the_engine_says(one_server, one_system, offline):
    import litellm

    asked = {"model": "openai/base", "api_base": f"{one_server.url}/v1", "api_key": "unused", "temperature": 0}
    got = litellm.completion(messages=[{"role": "user", "content": "Hello there"}], max_tokens=12, **asked)
    expected = offline(one_system, {"0": ALPACA.render("Hello there")})["0"]
    assert got.choices[0].message.content == expected
    pieces = litellm.completion(
        messages=[{"role": "user", "content": "Hello there"}], max_tokens=12, stream=True, **asked
    )
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == expected
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "word " * 400}], **asked)
    assert json.dumps(got.usage.model_dump(include={"prompt_tokens", "completion_tokens"}))
