import json
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from evaluation.ollama_server import DIGEST, OllamaServer
from servers.settings import BAD_COUNTS, BAD_NUMBERS, SCORE, calls, ollama_params, question

from instruct.core.errors import ParamsError, ServerError
from instruct.servers import http
from instruct.servers.base import Token
from instruct.servers.ollama import Ollama

SAMPLING = {"temperature", "seed", "top_k", "top_p", "num_predict", "num_ctx"}


@pytest.fixture
def server():
    with OllamaServer() as server:
        yield server
    assert server.breaches == []


@pytest.fixture
def waits(monkeypatch):
    seconds: list[float] = []
    monkeypatch.setattr(http.time, "sleep", seconds.append)
    return seconds


def client(server: OllamaServer, retries: int = 2, **fields) -> Ollama:
    return Ollama(ollama_params(server.url, **fields), calls(retries=retries))


def test_the_calls_come_in_the_order_of_the_contract(server):
    reply = client(server).ask(question())
    assert [(method, path) for method, path, _ in server.requests] == [
        ("GET", "/api/version"),
        ("GET", "/api/tags"),
        ("POST", "/api/show"),
        ("POST", "/api/chat"),
        ("POST", "/api/chat"),
    ]
    assert (reply.text, reply.problem, reply.stop, reply.attempts) == ('{"score": 85}', "", "stop", 1)


def test_nothing_is_asked_before_it_is_needed(server):
    client(server)
    assert server.requests == []


def test_the_model_is_loaded_without_messages_and_with_the_context_of_the_verdicts(server):
    client(server, num_ctx=1024).ask(question())
    load, verdict = server.bodies("/api/chat")
    assert load["messages"] == []
    assert load["stream"] is False
    assert load["options"]["num_ctx"] == verdict["options"]["num_ctx"] == 1024  # another one would load it again
    assert load["keep_alive"] == verdict["keep_alive"]


def test_everything_is_asked_for_as_the_contract_demands(server):
    request = question("good?", schema=SCORE, max_tokens=16, seed=7, repeat=2, temperature=0.5)
    client(server, model="llama3:latest", num_ctx=2048).ask(
        replace(request, messages=(("system", "Be just."), ("user", "good?")))
    )
    body = server.verdicts[0]
    assert body["model"] == "llama3:latest"
    assert body["messages"] == [{"role": "system", "content": "Be just."}, {"role": "user", "content": "good?"}]
    assert body["options"] == {"num_ctx": 2048, "num_predict": 16, "seed": 9, "temperature": 0.5}
    assert not SAMPLING & body.keys()  # at the top level they would be ignored without a word
    assert (body["stream"], body["truncate"], body["shift"]) == (False, False, False)
    assert body["format"] == SCORE
    assert "think" not in body and "logprobs" not in body


def test_temperature_0_takes_the_likeliest_token_only(server):
    client(server).ask(question())
    assert server.verdicts[0]["options"]["top_k"] == 1


@pytest.mark.parametrize(
    "family, capabilities, think",
    [
        ("llama", ("completion",), {}),
        ("qwen3", ("completion", "thinking"), {"think": False}),
        ("gptoss", ("completion", "thinking"), {"think": "low"}),
    ],
)
def test_thinking_is_turned_down_only_where_the_model_thinks(family, capabilities, think):
    with OllamaServer(family=family, capabilities=capabilities) as server:
        client(server).ask(question())
        assert {name: server.verdicts[0][name] for name in server.verdicts[0] if name == "think"} == think
        assert server.breaches == []


def test_the_identity_says_exactly_what_answers(server):
    assert client(server, num_ctx=512).identity == {
        "server": "ollama",
        "version": "0.33.0",
        "model": "llama3",
        "digest": DIGEST,
        "quantization": "Q4_0",
        "num_ctx": "512",
    }


@pytest.mark.parametrize("model", ["mistral", "llama3:70b", "someone/llama3"])
def test_a_model_that_was_not_pulled_is_named_with_the_command(server, model):
    state = client(server, model=model).check()
    assert (state.reachable, state.command) == (True, f"ollama pull {model}")
    assert "there: llama3:latest" in state.problem and f"ollama pull {model}" in state.problem
    with pytest.raises(ServerError, match=f"the model {model} is not there"):
        client(server, model=model).ask(question())
    assert server.verdicts == []


@pytest.mark.parametrize("pulled, wanted", [("llama3:latest", "llama3"), ("hub:5000/a/b:latest", "hub:5000/a/b")])
def test_a_model_without_tag_is_the_latest(pulled, wanted):
    with OllamaServer(model=pulled) as server:
        assert client(server, model=wanted).check().problem == ""


@pytest.mark.parametrize("tags", [{}, {"models": None}, {"models": [1, None, {"name": None}, {}]}])
def test_a_list_of_models_without_ours_is_not_a_crash(server, tags):
    server.scripted.extend([(200, {"version": "0.33.0"}), (200, tags)])
    assert "is not there" in client(server).check().problem


def test_a_look_finds_everything_and_loads_the_model(server):
    state = client(server, num_ctx=2048).check(question("one two three", max_tokens=32))
    assert (state.reachable, state.problem, state.command) == (True, "", "")
    assert (state.version, state.digest, state.quantization) == ("0.33.0", DIGEST, "Q4_0")
    assert state.context == 2048
    assert server.bodies("/api/chat")[0]["messages"] == []
    probe = server.verdicts[0]
    assert probe["options"]["num_predict"] == 1 and probe["options"]["num_ctx"] == 2048


def test_a_longest_prompt_beyond_the_context_is_found_before_the_run(server):
    words = "word " * 300
    over = client(server, num_ctx=256).check(question(words, max_tokens=8))
    assert "the longest prompt" in over.problem and "exceeds the context" in over.problem
    tight = client(server, num_ctx=304).check(question(words, max_tokens=8))
    assert "308" in tight.problem and "servers.ollama.num_ctx" in tight.problem
    assert client(server, num_ctx=308).check(question(words, max_tokens=8)).problem == ""


def test_a_context_that_the_model_or_the_server_does_not_have_is_found_before_the_run(server):
    server.trained_context = 2048
    assert "servers.ollama.num_ctx" in client(server).check().problem
    server.trained_context, server.given_context = 8192, 1024
    assert "1024" in client(server).check().problem


def test_other_weights_than_the_pinned_ones_are_refused(server):
    assert client(server, digest=DIGEST[:12]).check().problem == ""
    state = client(server, digest="0" * 12).check()
    assert f"has the digest {DIGEST[:12]}, not 000000000000" in state.problem


def test_a_pinned_digest_needs_no_server_to_know_the_key(server):
    pinned = client(server, digest=f"sha256:{DIGEST}")
    key = pinned.key(question())
    assert server.requests == []
    assert key == client(server).key(question())  # as long as the weights are those


def test_models_of_a_server_without_digests_share_no_key(server):
    for name in ("llama3", "qwen3"):
        server.scripted.extend(
            [(200, {"version": "0.33.0"}), (200, {"models": [{"name": f"{name}:latest"}]}), (200, {})]
        )
    keys = {client(server, model=name).key(question()) for name in ("llama3", "qwen3")}
    assert len(keys) == 2


@pytest.mark.parametrize("pin", [DIGEST, DIGEST[:12], f"sha256:{DIGEST}", DIGEST[:30]])
def test_a_pinned_digest_has_the_same_identity_with_and_without_a_server(server, pin):
    gone = Ollama(ollama_params("http://127.0.0.1:9", digest=pin), calls(retries=0))
    here = client(server, digest=pin)
    before = here.identity
    here.ask(question())
    server.version = "0.34.1"
    expected = {"server": "ollama", "model": "llama3", "num_ctx": "4096", "digest": DIGEST[:12]}
    assert gone.identity == before == here.identity == client(server, digest=pin).identity == expected
    with pytest.raises(ServerError, match="ollama serve"):
        gone.ask(question())


def test_the_key_holds_all_that_decides_a_reply_and_nothing_else(server):
    base = question("a")
    other = [
        question("b"),
        replace(base, schema=SCORE),
        replace(base, max_tokens=65),
        replace(base, temperature=0.5),
        replace(base, seed=124),
        replace(base, repeat=1),
        replace(base, top_logprobs=5),
        replace(base, messages=(("system", "a"),)),
    ]
    keys = [client(server).key(request) for request in (base, *other)]
    keys.append(client(server, num_ctx=2048).key(base))
    assert len(set(keys)) == len(keys)
    assert client(server, workers=4, model="llama3:latest").key(base) == keys[0]
    server.version = "0.34.0"
    assert client(server).key(base) == keys[0]
    # Seed 124 and the second time of asking with 123 are the same to the server, and still two questions.
    assert client(server).key(replace(base, seed=124)) != client(server).key(replace(base, repeat=1))


def test_probabilities_come_where_the_server_gives_them(server):
    reply = client(server).ask(question(top_logprobs=2))
    assert reply.logprobs == (Token(text="85", logprob=-0.25, top=(("85", -0.25), ("9", -1.5))),)
    assert server.verdicts[0]["logprobs"] is True and server.verdicts[0]["top_logprobs"] == 2
    server.version = "0.12.10"
    with pytest.raises(ServerError, match=r"0\.12\.11"):
        client(server).ask(question(top_logprobs=2))


@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_a_probability_out_of_range_makes_a_reply_with_a_problem(server, number):
    server.changes = {
        "logprobs": [{"token": "85", "logprob": -1.0, "top_logprobs": [{"token": "9", "logprob": number}]}]
    }
    reply = client(server).ask(question(top_logprobs=2))
    assert reply.problem and reply.logprobs is None and reply.text


@pytest.mark.parametrize("number", BAD_COUNTS)
def test_a_count_out_of_range_makes_a_reply_with_a_problem(server, number):
    server.changes = {"prompt_eval_count": number}
    reply = client(server).ask(question())
    assert reply.problem and reply.prompt_tokens == 0


def _instead(right, path, body, *asked):
    return (200, body) if asked[1] == path else right(*asked)


@pytest.mark.parametrize("path", ["/api/version", "/api/tags", "/api/show", "/api/ps"])
@pytest.mark.parametrize(
    "value",
    [5, True, "x\x1b[31m", None, [], [5, None, "a"], {"a": []}, 2**70, -5, float("nan"), "9" * 5000, "\u00b2.1.1"],
)
def test_nothing_that_a_server_says_of_itself_is_a_crash(monkeypatch, path, value):
    """Nor do its control characters come through."""
    entry = {"name": "llama3:latest", "digest": value, "details": value, "context_length": value, "size_vram": value}
    inner = {"model_info": {"llama.context_length": value}, "details": {"family": value, "quantization_level": value}}
    names = ("version", "models", "capabilities", "model_info", "details", "message")
    odd = dict.fromkeys(names, value)
    for body in (odd, {**odd, **inner, "models": [entry]}, {"models": [{**entry, **inner, "name": value}]}):
        with OllamaServer() as server:
            right = server.answer
            monkeypatch.setattr(
                server._server.RequestHandlerClass,
                "decide",
                staticmethod(partial(_instead, right, path, body)),
            )
            judge = client(server, retries=0)
            state = judge.check(question())
            assert f"{state.problem}{state.version}{state.digest}{state.quantization}".isprintable()
            with suppress(ServerError):
                judge.ask(question(top_logprobs=1))


@pytest.mark.parametrize("version", ["0.12.11", "0.13.0-rc1", "1.0.0", "0.0.0-dirty", "unknown"])
def test_versions_with_probabilities_are_told_apart(server, version):
    server.version = version
    if version.startswith("0.0.0"):
        with pytest.raises(ServerError, match=r"0\.12\.11"):
            client(server).ask(question(top_logprobs=1))
    else:
        assert client(server).ask(question(top_logprobs=1)).logprobs


def test_a_silent_cut_by_an_old_server_is_noticed(server):
    server.changes = {"prompt_eval_count": 4096 // 2 + 2}
    assert "servers.ollama.num_ctx" in client(server).ask(question()).problem


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"done_reason": "length"}, "max_tokens"),
        ({"done_reason": "unload"}, "unload"),
        ({"message": {"role": "assistant", "content": ""}}, "empty"),
        ({"message": {"role": "assistant", "content": " \n"}}, "empty"),
        ({"message": {"role": "assistant", "content": "", "thinking": "hm"}}, "thoughts"),
        ({"message": {"role": "assistant"}}, "empty"),
        ({"message": None}, "empty"),
        ({"message": "85"}, "empty"),
        ({"message": {"role": "assistant", "content": "8" * 100_001}}, "100001"),
    ],
)
def test_a_reply_that_cannot_be_relied_on_is_kept_with_its_problem(server, changes, problem):
    server.changes = changes
    reply = client(server).ask(question())
    assert problem in reply.problem and reply.answered
    content = changes.get("message", {"content": '{"score": 85}'})
    kept = content.get("content", "") if isinstance(content, dict) else ""
    assert reply.text == kept[:20_000]


def test_thoughts_that_took_all_tokens_are_named(server):
    server.changes = {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done_reason": "length"}
    assert "thoughts" in client(server).ask(question()).problem


def test_a_missing_model_in_mid_run_stops_everything_at_once(server, waits):
    judge = client(server)
    judge.ask(question())
    server.model = "mistral:latest"
    with pytest.raises(ServerError, match="404"):
        judge.ask(question())
    assert waits == []


def test_a_prompt_beyond_the_context_is_refused_and_never_cut(server, waits):
    reply = client(server, num_ctx=256).ask(question("word " * 300))
    assert "400" in reply.problem and "exceeds the context" in reply.problem
    assert (reply.text, reply.answered, waits) == ("", True, [])


def test_half_a_surrogate_pair_in_a_reply_can_still_be_written(server):
    reply = {"message": {"content": "85 \ud83d"}, "done": True, "done_reason": "stop"}
    judge = client(server)
    judge.identity  # noqa: B018
    server.scripted.extend([(200, {"done": True}), (200, json.dumps(reply).encode())])
    assert judge.ask(question()).text == "85 \\ud83d"


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_path_of_the_base_address_is_honoured(slash):
    with OllamaServer() as server:
        server.scripted.extend([(200, {"version": "1"})])
        judge = Ollama(ollama_params(f"{server.url}/below{slash}"), calls(retries=0))
        assert "404" in judge.check().problem
        assert [path for _, path, _ in server.requests] == ["/below/api/version", "/below/api/tags"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("url", "127.0.0.1:11434"),
        ("url", "http://user:secret@host"),
        ("model", " "),
        ("num_ctx", 10),
        ("workers", 0),
        ("digest", "latest"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ParamsError, match=f"^{name} must be"):
        replace(ollama_params("http://127.0.0.1:11434"), **{name: value})
