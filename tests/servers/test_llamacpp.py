"""Against the real llama.cpp, with the real SmolLM2; only what starts nothing is quick."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from servers.settings import SCORE, calls, llamacpp_params, question

from instruct.backbones.fetch import ensure
from instruct.core.errors import BackboneError, ServerError
from instruct.servers.asking import ask_all
from instruct.servers.cache import ReplyCache
from instruct.servers.llamacpp import LlamaCpp
from instruct.servers.openai import OpenAI
from instruct.servers.settings import OpenAIParams

PATIENT = calls(read=120.0, total=120.0)


@pytest.fixture(scope="module")
def gguf(smollm2_backbone):
    return ensure(smollm2_backbone)[0]


@pytest.fixture(scope="module")
def judge(gguf):
    judge = LlamaCpp(llamacpp_params(str(gguf)), PATIENT)
    yield judge
    judge.close()


@pytest.fixture
def small(tmp_path):
    """No model: enough for what needs no server."""
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF and then nothing")
    return path


def test_identity_and_key_start_nothing(small):
    judge = LlamaCpp(llamacpp_params(str(small)), PATIENT)
    digest = sha256(small.read_bytes()).hexdigest()
    assert judge.identity["model"] == "small.gguf" and judge.identity["digest"] == digest
    keys = {judge.key(question()), judge.key(question(repeat=1)), judge.key(question("other"))}
    same = LlamaCpp(llamacpp_params(str(small), workers=4, threads=2, num_ctx=1024), PATIENT)
    assert len(keys) == 3 and same.key(question()) in keys
    assert judge._running is None


def test_other_weights_have_another_key(small, tmp_path):
    before = LlamaCpp(llamacpp_params(str(small)), PATIENT).key(question())
    small.write_bytes(b"GGUF and then something")
    assert LlamaCpp(llamacpp_params(str(small)), PATIENT).key(question()) != before


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_another_file_than_the_pinned_one_is_refused(small, prefix):
    digest = sha256(small.read_bytes()).hexdigest()
    pinned = LlamaCpp(llamacpp_params(str(small), digest=f"{prefix}{digest[:16]}"), PATIENT)
    assert pinned.key(question()) == LlamaCpp(llamacpp_params(str(small)), PATIENT).key(question())
    small.write_bytes(b"GGUF and then something")
    changed = LlamaCpp(llamacpp_params(str(small), digest=f"{prefix}{digest[:16]}"), PATIENT)
    with pytest.raises(ServerError, match="digest"):
        changed.key(question())
    assert "digest" in changed.check().problem


@pytest.mark.parametrize("name", ["no/such/file", "missing.gguf"])
def test_a_file_that_is_not_there_is_said(name):
    judge = LlamaCpp(llamacpp_params(name), PATIENT)
    with pytest.raises(ServerError, match=name):
        judge.key(question())
    assert name in judge.check().problem


def test_a_backbone_that_is_no_gguf_file_is_refused():
    with pytest.raises(ServerError, match=r"servers\.llamacpp\.gguf.*gpt2-124m"):
        LlamaCpp(llamacpp_params("gpt2-124m"), PATIENT).key(question())
    with pytest.raises(BackboneError, match="did you mean smollm2-135m"):
        LlamaCpp(llamacpp_params("smollm2-135"), PATIENT).key(question())


def test_without_the_wheel_the_extra_is_offered(small, monkeypatch):
    monkeypatch.setattr("instruct.servers.llamacpp.PACKAGE", "no-such-wheel")
    state = LlamaCpp(llamacpp_params(str(small)), PATIENT).check()
    assert state.command == "pip install -e '.[llamacpp]'" and not state.reachable


@pytest.mark.slow
def test_a_file_that_llama_cpp_cannot_load_is_one_line(small):
    pytest.importorskip("xllamacpp")
    state = LlamaCpp(llamacpp_params(str(small)), PATIENT).check()
    assert "small.gguf" in state.problem and not state.reachable


@pytest.mark.slow
def test_a_look_starts_it_and_finds_the_longest_prompt_too_long(judge):
    pytest.importorskip("xllamacpp")
    state = judge.check(question("Hello."))
    assert (state.reachable, state.problem, state.context) == (True, "", 512)
    assert "exceeds the available context size (512 tokens)" in judge.check(question("word " * 600)).problem
    assert "need" in judge.check(question("word " * 440, max_tokens=200)).problem


@pytest.mark.slow
def test_a_schema_is_followed_and_twice_the_same_comes_out(judge):
    request = question("Rate this answer from 0 to 100: 2 + 2 = 4.", schema=SCORE, max_tokens=32)
    first, second = judge.ask(request), judge.ask(request)
    assert first == second and first.problem == ""
    assert 0 <= json.loads(first.text)["score"] <= 100
    assert first.stop == "stop" and first.prompt_tokens > 10


@pytest.mark.slow
def test_an_earlier_prompt_does_not_change_a_reply(judge):
    """A shared beginning must not be taken from an earlier prompt's cache: its bits differ."""
    request = question("Name three fruits, with commas.", max_tokens=24, top_logprobs=3)
    alone = judge.ask(request)
    judge.ask(question("Name three fruits, with dashes.", max_tokens=24))
    assert judge.ask(request) == alone


@pytest.mark.slow
def test_repeats_differ_where_the_temperature_lets_them_and_can_be_had_again(judge):
    request = question("Say anything.", temperature=1.0, max_tokens=16)
    repeats = [judge.ask(replace(request, repeat=repeat)).text for repeat in range(4)]
    assert len(set(repeats)) > 1
    assert judge.ask(replace(request, repeat=2)).text == repeats[2]


@pytest.mark.slow
def test_probabilities_are_those_of_the_tokens(judge):
    reply = judge.ask(question("Is the sky blue? Say yes or no.", max_tokens=8, top_logprobs=5))
    assert reply.logprobs and "".join(token.text for token in reply.logprobs).startswith(reply.text)
    for token in reply.logprobs:
        assert len(token.top) == 5 and token.logprob <= 0
        assert token.top[0][1] == max(logprob for _, logprob in token.top)
        assert (token.text, pytest.approx(token.logprob, abs=1e-4)) == token.top[0]  # greedy takes the likeliest


@pytest.mark.slow
def test_too_long_a_prompt_is_refused_and_never_cut(judge):
    reply = judge.ask(question("word " * 600))
    assert "exceeds the available context size" in reply.problem and reply.text == ""


@pytest.mark.slow
def test_a_reply_that_needs_more_tokens_is_marked(judge):
    reply = judge.ask(question("Tell a long story.", max_tokens=5))
    assert reply.stop == "length" and "cut off at its most tokens" in reply.problem and reply.text


@pytest.mark.slow
def test_many_at_once_each_with_the_full_context(gguf, tmp_path):
    both = LlamaCpp(llamacpp_params(str(gguf), workers=2), PATIENT)
    requests = [question(f"Rate from 0 to 100: {n} + 1 = {n + 1}", schema=SCORE, max_tokens=32) for n in range(6)]
    requests.append(question("word " * 440, max_tokens=8))
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        replies = ask_all(both, requests, cache=cache, workers=both.workers)
        assert all("score" in json.loads(reply.text) for reply in replies[:6])
        assert replies[6].prompt_tokens > 440
        both.close()
        again = ask_all(both, requests[:6], cache=cache, workers=both.workers)  # closed, so from the cache alone
        assert [(reply.text, reply.attempts) for reply in again] == [(reply.text, 0) for reply in replies[:6]]
        assert both._running is None


@pytest.mark.slow
def test_the_client_of_other_servers_speaks_with_it_too(judge, gguf):
    """llama.cpp's server as anyone would run it, by its address."""
    judge.ask(question("Hello.", max_tokens=2))
    assert judge._running
    params = OpenAIParams(
        url=f"{judge._running[0].listening_address}/v1", model=gguf.name, key_variable="", schema="json_schema",
        workers=1, body={"cache_prompt": False}, digest="",
    )  # fmt: skip
    other = OpenAI(params, PATIENT)
    request = question("Rate this answer from 0 to 100: 2 + 2 = 4.", schema=SCORE, max_tokens=32)
    assert other.check(request).problem == ""
    assert other.ask(request) == judge.ask(request)
    refused = other.ask(replace(request, schema={"type": "nonsense"}))
    assert "answers 400" in refused.problem
    other.close()


@pytest.mark.slow
def test_it_ends_when_it_is_closed_and_starts_again_when_it_is_asked(gguf):
    judge = LlamaCpp(llamacpp_params(str(gguf)), PATIENT)
    first = judge.ask(question("Hello.", max_tokens=4))
    address = judge._running[0].listening_address
    judge.close()
    gone = OpenAI(
        OpenAIParams(url=f"{address}/v1", model="m", key_variable="", schema="none", workers=1, body={}, digest=""),
        calls(retries=0),
    )
    assert not gone.ask(question()).answered
    assert judge.ask(question("Hello.", max_tokens=4)) == first
    judge.close()
