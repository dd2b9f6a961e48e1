import json
import logging
from dataclasses import replace

import pytest
from evaluation.ollama_server import OllamaServer
from servers.settings import SCORE, calls, openai_params, question

from instruct.core.errors import ParamsError, ServerError
from instruct.core.params import build
from instruct.servers.base import Token
from instruct.servers.openai import OpenAI
from instruct.servers.settings import OpenAIParams

KEY = "sk-very-secret-1234"


class OpenAIServer(OllamaServer):
    """Follows OpenAI's chat API; a `wanted_key` is needed if set. `seen` holds what chat was asked."""

    wanted_key = ""
    listed: tuple[dict, ...] | None = ({"id": "judge", "max_model_len": 100},)
    choice: dict = {}  # noqa: RUF012
    limit = 100

    def answer(self, method, path, raw):
        body = json.loads(raw) if raw else None
        self.requests.append((method, path, body))
        if self.scripted:
            return self.scripted.popleft()
        if path == "/v1/models":
            return (404, {"error": "none"}) if self.listed is None else (200, {"data": list(self.listed)})
        if path != "/v1/chat/completions":
            return 404, {"error": {"message": "no such path"}}
        tokens = sum(len(message["content"].split()) for message in body["messages"])
        if tokens > self.limit:
            return 400, {"error": {"message": f"{tokens} tokens exceed the context", "code": 400}}
        message = {"role": "assistant", "content": '{"score": 85}'}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None, **self.choice}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": tokens}}


@pytest.fixture
def server():
    with OpenAIServer() as server:
        yield server


def client(server, **fields) -> OpenAI:
    return OpenAI(openai_params(f"{server.url}/v1", **fields), calls())


def asked(server) -> list[dict]:
    return [body for _, path, body in server.requests if path == "/v1/chat/completions"]


def test_everything_is_asked_for_as_the_api_has_it(server):
    request = question(schema=SCORE, max_tokens=16, seed=7, repeat=2, temperature=0.5, top_logprobs=5)
    reply = client(server).ask(request)
    assert asked(server) == [
        {
            "model": "judge",
            "messages": [{"role": "user", "content": "How good is it?"}],
            "stream": False,
            "max_tokens": 16,
            "temperature": 0.5,
            "seed": 9,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": SCORE, "strict": True},
            },
            "logprobs": True,
            "top_logprobs": 5,
        }
    ]
    assert (reply.text, reply.stop, reply.prompt_tokens, reply.problem) == ('{"score": 85}', "stop", 4, "")


def test_a_temperature_of_0_is_sent_since_others_take_1(server):
    client(server).ask(question())
    assert asked(server)[0]["temperature"] == 0.0


@pytest.mark.parametrize("schema, sent", [("json_object", {"type": "json_object"}), ("none", None)])
def test_servers_without_schemas_are_asked_in_their_way(server, schema, sent):
    client(server, schema=schema).ask(question(schema=SCORE))
    assert asked(server)[0].get("response_format") == sent


def test_fields_can_be_added_and_taken_away(server):
    client(server, body={"max_completion_tokens": 64, "max_tokens": None, "seed": 1}).ask(question())
    assert asked(server)[0]["max_completion_tokens"] == 64
    assert "max_tokens" not in asked(server)[0] and asked(server)[0]["seed"] == 1


def test_probabilities_are_read(server):
    tops = [{"token": "8", "logprob": -0.5, "bytes": [56]}, {"token": "9", "logprob": -1.0}]
    server.choice = {"logprobs": {"content": [{"token": "8", "logprob": -0.5, "top_logprobs": tops}]}}
    assert client(server).ask(question(top_logprobs=2)).logprobs == (
        Token(text="8", logprob=-0.5, top=(("8", -0.5), ("9", -1.0))),
    )


@pytest.mark.parametrize(
    "logprobs", [None, [], "no", {"content": None}, {"content": [{"token": "8"}]}, {"content": [1]}]
)
def test_probabilities_that_are_not_right_are_none(server, logprobs):
    server.choice = {"logprobs": logprobs}
    reply = client(server).ask(question(top_logprobs=2))
    assert reply.logprobs is None and reply.text == '{"score": 85}'


@pytest.mark.parametrize(
    "choice, problem",
    [
        ({"finish_reason": "length"}, "cut off at its most tokens"),
        ({"finish_reason": "content_filter"}, "ended by content_filter"),
        ({"message": {"content": None}}, "is empty"),
        ({"message": {"content": "", "reasoning_content": "hm"}}, "thoughts only"),
        ({"message": {"content": None, "refusal": "I cannot"}}, "refuses"),
        ({"message": None}, "is empty"),
    ],
)
def test_a_reply_that_cannot_be_relied_on_has_a_problem(server, choice, problem):
    server.choice = choice
    assert problem in client(server).ask(question()).problem


@pytest.mark.parametrize("choices", [[], None, [None], "x", [{"message": {"content": "85"}}]])
def test_an_answer_without_an_end_is_asked_for_again(server, choices):
    server.scripted.append((200, {"choices": choices}))
    assert client(server).ask(question()).attempts == 2


def test_the_key_goes_out_and_nowhere_else(server, monkeypatch, caplog):
    monkeypatch.setenv("TEST_KEY", f" {KEY}\n")
    heads = []
    original = server.answer
    judge = client(server)
    monkeypatch.setattr(judge._http._manager, "urlopen", _noting(judge._http._manager.urlopen, heads))
    caplog.set_level(logging.DEBUG)
    server.scripted.append((401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    with pytest.raises(
        ServerError, match=r"answers 401 \(Incorrect API key provided: \*\*\*\); check the key"
    ) as error:
        judge.ask(question())
    server.scripted.append((400, {"error": {"message": f"bad {KEY}"}}))
    reply = judge.ask(question())
    assert heads[0]["Authorization"] == f"Bearer {KEY}" and original
    told = f"{error.value} {reply} {judge.identity} {judge.key(question())} {caplog.text} {judge.check()}"
    assert KEY not in told and KEY not in json.dumps(server.requests)


def _noting(urlopen, heads):
    def note(*args, **kwargs):
        heads.append(kwargs["headers"])
        return urlopen(*args, **kwargs)

    return note


def test_no_key_is_sent_where_none_is_set(server, monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    assert "Authorization" not in client(server)._http._headers
    monkeypatch.setenv("TEST_KEY", KEY)
    assert "Authorization" not in client(server, key_variable="")._http._headers


def test_a_key_that_cannot_be_one_is_refused_without_showing_it(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-\u00e9\nX")
    with pytest.raises(ServerError, match="TEST_KEY") as error:
        client(server)
    assert "sk-" not in str(error.value)


def test_a_key_in_place_of_the_variables_name_is_refused_without_showing_it():
    values = {
        "url": "http://a/v1",
        "model": "m",
        "key_variable": KEY,
        "schema": "none",
        "workers": 1,
        "body": {},
        "digest": "",
    }
    with pytest.raises(ParamsError, match="key_variable must be the name of a variable, never the key") as error:
        build(OpenAIParams, values, where="params.yaml: servers.openai")
    assert KEY not in str(error.value)


def test_a_look_finds_model_and_context(server):
    state = client(server).check(question("word " * 40, max_tokens=50))
    assert (state.reachable, state.warm, state.problem, state.context) == (True, True, "", 100)
    assert "need 130 tokens, the server has 100" in client(server).check(question("word " * 80, max_tokens=50)).problem
    assert "200 tokens exceed the context" in client(server).check(question("word " * 200)).problem
    assert "there: judge" in client(server, model="other").check().problem


def test_a_server_without_a_list_of_models_is_believed(server):
    server.listed = None
    state = client(server).check()
    assert (state.reachable, state.warm, state.problem, state.context) == (True, True, "", 0)


def test_a_server_that_is_not_there_is_a_state_and_no_exception():
    state = OpenAI(openai_params("http://127.0.0.1:9/v1"), calls(retries=0)).check()
    assert not state.reachable and "cannot be reached" in state.problem


def test_the_key_of_a_request_names_the_weights_or_the_address(server):
    here, there = client(server), OpenAI(openai_params("http://elsewhere/v1"), calls())
    assert here.key(question()) != there.key(question())
    named = [OpenAI(openai_params(url, digest="llama-70b@2"), calls()) for url in ("http://a/v1", "http://b/v1")]
    assert named[0].key(question()) == named[1].key(question()) != here.key(question())
    assert here.key(question()) != here.key(replace(question(), repeat=1))
    assert server.requests == []
