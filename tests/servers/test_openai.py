import html
import json
import logging
from base64 import b64encode
from dataclasses import replace
from urllib.parse import quote

import pytest
from evaluation.ollama_server import OllamaServer
from servers.settings import BAD_COUNTS, BAD_NUMBERS, SCORE, calls, openai_params, question

from instruct.core.errors import ParamsError, ServerError
from instruct.core.params import build
from instruct.servers.asking import ask_all
from instruct.servers.base import Token
from instruct.servers.cache import ReplyCache
from instruct.servers.openai import OpenAI
from instruct.servers.settings import OpenAIParams

KEY = "sk-very-secret-1234"


class OpenAIServer(OllamaServer):
    """Follows OpenAI's chat API; a `wanted_key` is needed if set. `seen` holds what chat was asked."""

    wanted_key = ""
    listed: tuple[dict, ...] | None = ({"id": "judge", "max_model_len": 100},)
    choice: dict = {}  # noqa: RUF012
    limit = 100
    usage: dict | None = None

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
        return 200, {"choices": [choice], "usage": self.usage or {"prompt_tokens": tokens}}


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


@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_a_probability_out_of_range_makes_a_reply_with_a_problem(server, number):
    for token in (
        {"token": "8", "logprob": number},
        {"token": "8", "logprob": -0.5, "top_logprobs": [{"token": "9", "logprob": number}]},
    ):
        server.choice = {"logprobs": {"content": [token]}}
        reply = client(server).ask(question(top_logprobs=2))
        assert reply.problem and reply.logprobs is None and reply.text == '{"score": 85}'
        assert client(server).ask(question()).problem == ""  # nobody asked for it


@pytest.mark.parametrize("number", [*BAD_COUNTS, 2.5])
def test_a_count_out_of_range_makes_a_reply_with_a_problem(server, number):
    server.usage = {"prompt_tokens": number}
    reply = client(server).ask(question())
    assert reply.problem and reply.prompt_tokens == 0 and reply.text == '{"score": 85}'
    assert "prompt" not in client(server).check(question()).problem


@pytest.mark.parametrize("count, read", [(7, 7), (7.0, 7), (0, 0), (None, 0), (True, 0), ("7", 0), ([7], 0)])
def test_a_count_that_is_none_is_0(server, count, read):
    server.usage = {"prompt_tokens": count}
    reply = client(server).ask(question())
    assert (reply.prompt_tokens, reply.problem) == (read, "")


@pytest.mark.parametrize(
    "choice, problem",
    [
        ({"finish_reason": "length"}, "max_tokens"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"message": {"content": None}}, "empty"),
        ({"message": {"content": "", "reasoning_content": "hm"}}, "thoughts"),
        ({"message": {"content": None, "refusal": "I cannot"}}, "refuses"),
        ({"message": None}, "empty"),
    ],
)
def test_a_reply_that_cannot_be_relied_on_has_a_problem(server, choice, problem):
    server.choice = choice
    assert problem in client(server).ask(question()).problem


@pytest.mark.parametrize(
    "reason",
    ["stop", "STOP", "eos", "eos_token", "end", "end_turn", "stop_sequence", "FinishReason.STOP", None, "none"],
)
def test_a_model_that_ended_by_itself_is_heard_whatever_the_server_calls_it(server, reason):
    server.choice = {"finish_reason": reason}
    reply = client(server).ask(question())
    assert (reply.text, reply.problem) == ('{"score": 85}', "") and reply.stop in ("stop", "")


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_reply_that_was_cut_off_is_one_whatever_the_server_calls_it(server, reason):
    server.choice = {"finish_reason": reason}
    reply = client(server).ask(question())
    assert reply.stop == "length" and reply.problem


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": '{"score": 85}'}],
        [{"type": "text", "text": '{"score"'}, {"type": "text", "text": ": 85}"}],
        [{"type": "thinking", "thinking": "99"}, {"type": "text", "text": '{"score": 85}'}],
        [{"type": "output_text", "text": '{"score": 85}', "annotations": []}],
        [None, 5, {"type": "image_url", "image_url": {}}, {"type": "text", "text": '{"score": 85}'}],
    ],
)
def test_typed_parts_are_read_as_their_text(server, content):
    server.choice = {"message": {"role": "assistant", "content": content}}
    reply = client(server).ask(question())
    assert (reply.text, reply.problem) == ('{"score": 85}', "")


@pytest.mark.parametrize("content", [[], [{"type": "text"}], [{"type": "text", "text": 5}], {"text": "85"}, 85, True])
def test_content_without_text_is_an_empty_reply(server, content):
    server.choice = {"message": {"role": "assistant", "content": content}}
    reply = client(server).ask(question())
    assert reply.text == "" and reply.problem


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500, 501])
def test_a_server_that_does_not_list_its_models_is_judged_by_its_chat(server, status):
    server.scripted.extend([(status, {"error": "no list"})] * (2 if status == 500 else 1))
    state = client(server).check()
    assert state.problem == "" and str(status) in state.note


def test_a_server_that_refuses_list_and_chat_cannot_be_used(server):
    server.scripted.extend([(403, {"error": "no list"}), (403, {"error": "no chat"})])
    assert "no chat" in client(server).check().problem


@pytest.mark.parametrize("listed, asked", [("models/judge", "judge"), ("org/judge", "judge"), ("judge", "org/judge")])
def test_a_model_that_is_listed_under_its_owner_is_there(server, listed, asked):
    server.listed = ({"id": "other", "max_model_len": 5}, {"id": listed, "max_model_len": 77}, {"id": None}, {})
    state = client(server, model=asked).check()
    assert (state.problem, state.context) == ("", 77)


@pytest.mark.parametrize("listed", [5, "judge", [5, None], [{"id": 5}], [{"id": ["judge"]}]])
def test_a_list_of_models_of_another_form_is_no_crash(server, listed):
    server.scripted.append((200, {"data": listed}))
    assert isinstance(client(server).check().problem, str)


@pytest.mark.parametrize("choices", [[], None, [None], "x", [{"message": {"content": None}}]])
def test_an_answer_without_an_end_is_asked_for_again(server, choices):
    server.scripted.append((200, {"choices": choices}))
    assert client(server).ask(question()).attempts == 2


KEYS = ("sk-very-secret-1234", "abc/def+ghi==&<x>", "abcdefgh12345678")


def quoted_small(key):
    """A key as an address has it, with hexadecimal digits in lower case."""
    return "".join(one if one.isalnum() or one in "-_.~" else f"%{ord(one):02x}" for one in key)


def echoes(key):
    """Ways in which a server or what is before it gives a key back."""
    yield from (key, key.upper(), f"Bearer {key}", html.escape(key), quote(key, safe=""), f"{key}{key}", f'"{key}"')
    yield from (b64encode(f"{before}{key}!".encode()).decode() for before in ("", ":", "Bearer ", "user:"))
    yield json.dumps(key).replace("/", "\\/")
    yield quoted_small(key)
    yield "x" * 190 + key  # so that the cut for a message goes through it


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
def test_the_key_goes_out_and_comes_back_nowhere(server, monkeypatch, caplog, tmp_path, key, status):
    monkeypatch.setenv("TEST_KEY", f" {key}\n")
    caplog.set_level(logging.DEBUG)
    judge = client(server)
    told = []
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        for number, echo in enumerate(echoes(key)):
            message = {"content": f"85 {echo}", "reasoning_content": echo}
            tokens = [{"token": piece, "logprob": -1.0} for piece in (echo[:5], echo[5:])]
            choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": tokens}}
            for body in (
                {"choices": [choice]} if status == 200 else {"error": {"message": echo, echo: 1}},
                echo.encode(),
            ):
                server.scripted.extend([(status, body)] * 3)
                try:
                    told += ask_all(judge, [question(str(number), top_logprobs=1)], cache=cache, workers=1)
                except ServerError as error:
                    told.append(error)
                server.scripted.clear()
            server.scripted.append((200, {"data": [{"id": echo}]}))
            told.append(judge.check())
        cache.export(tmp_path / "replies.jsonl")
    kept = (tmp_path / "replies.jsonl").read_text(encoding="utf-8")
    everything = f"{told} {judge.identity} {judge.key(question())} {caplog.text} {kept}"
    core = b64encode(key.encode()).decode()[:-4]
    assert not [
        one for one in (key, quote(key, safe=""), quoted_small(key), html.escape(key), core) if one in everything
    ]
    assert key[:6] not in everything and key not in json.dumps(server.requests)
    assert set(server.keys) == {f"Bearer {key}"}


@pytest.mark.parametrize("key", ["1", "85", "x", "-", "EMPTY", "test", "none", "ollama", "lm-studio", "not-needed"])
def test_a_placeholder_in_place_of_a_key_changes_no_reply_and_no_message(server, monkeypatch, key):
    monkeypatch.setenv("TEST_KEY", key)
    text = f"The cup is {key.lower()}, the {key} cup is {key}y. 85 1 x - y"
    server.choice = {"message": {"role": "assistant", "content": text}}
    reply = client(server).ask(question())
    assert (reply.text, reply.problem) == (text, "")
    server.scripted.append((400, {"error": f"no {key}"}))
    assert f"no {key}" in client(server).ask(question()).problem


def test_a_reply_with_the_key_in_it_is_a_problem_and_never_an_edited_text(server, monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_KEY", KEY)
    judge, halves = client(server), [{"token": part, "logprob": -1.0} for part in (KEY[:9], KEY[9:])]
    in_tokens = {"message": {"content": "85"}, "logprobs": {"content": halves}}
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        for choice in ({"message": {"content": f"It is {KEY}."}}, in_tokens):
            server.choice = choice
            (reply,) = ask_all(judge, [question(top_logprobs=1)], cache=cache, workers=1)
            assert reply.problem and reply.text == "" and reply.logprobs is None and reply.answered
            assert KEY not in str(reply)
        assert cache.count() == 0
        server.choice = {"message": {"content": f"It is {KEY.upper()}."}}
        assert judge.ask(question()).text == f"It is {KEY.upper()}."


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
    with pytest.raises(ParamsError, match=r"servers\.openai\.key_variable") as error:
        build(OpenAIParams, values, where="params.yaml: servers.openai")
    assert KEY not in str(error.value)


def test_a_look_finds_model_and_context(server):
    state = client(server).check(question("word " * 40, max_tokens=50))
    assert (state.reachable, state.problem, state.context) == (True, "", 100)
    assert "130" in client(server).check(question("word " * 80, max_tokens=50)).problem
    assert "200 tokens exceed the context" in client(server).check(question("word " * 200)).problem
    assert "there: judge" in client(server, model="other").check().problem


def test_a_server_without_a_list_of_models_is_believed(server):
    server.listed = None
    state = client(server).check()
    assert (state.reachable, state.problem, state.context) == (True, "", 0)


def test_a_server_that_is_not_there_is_a_state_and_no_exception():
    state = OpenAI(openai_params("http://127.0.0.1:9/v1"), calls(retries=0)).check()
    assert not state.reachable and "127.0.0.1:9" in state.problem


def test_body_and_schema_tell_judges_apart_and_no_key_is_shown(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    fields = [{}, {"schema": "none"}, {"body": {"reasoning_effort": "high"}}, {"body": {"stop": ["x" * 1000]}}]
    identities = [client(server, **one).identity for one in fields]
    assert len({json.dumps(one) for one in identities}) == len(fields)
    assert all(isinstance(value, str) and len(value) < 600 for one in identities for value in one.values())
    one, other = ({"a": 1, "b": [KEY]}, {"b": [KEY], "a": 1})
    assert client(server, body=one).identity == client(server, body=other).identity
    assert KEY not in str(client(server, body=one).identity)


@pytest.mark.parametrize("value, stated", [(1.0, "1"), (0.25, "0.25"), (0, "0"), (None, "the server's")])
def test_a_temperature_that_overrides_that_of_the_requests_is_stated(server, value, stated):
    assert client(server, body={"temperature": value}).identity["temperature"] == stated
    assert "temperature" not in client(server).identity


def answers_of(*names):
    choice = {"message": {"content": "85"}, "finish_reason": "stop"}
    return [(200, {"choices": [choice], **({"model": name} if name else {})}) for name in names]


def test_a_reply_of_another_model_than_the_first_is_a_failed_one_and_not_cached(server, tmp_path):
    judge, texts = client(server), ["1", "2", "3", "4", "5"]
    server.scripted.extend(answers_of("judge", "tiny", "judge", "", "tiny"))
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        replies = ask_all(judge, [question(text) for text in texts], cache=cache, workers=1)
        assert ["tiny" in one.problem for one in replies] == [bool(one.problem) for one in replies]
        assert [bool(one.problem) for one in replies] == [False, True, False, False, True]
        assert all(one.answered and one.text == "85" for one in replies)
        assert cache.count() == 3
        # The first one is remembered from one run to the next.
        server.scripted.extend(answers_of("tiny", "judge"))
        ask_all(judge, [question(text) for text in texts], cache=cache, workers=1)
        assert cache.count() == 4


def test_one_alias_throughout_is_cached_and_only_logged(server, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    server.scripted.extend(answers_of(*["judge-2026-08-06"] * 3))
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        ask_all(client(server), [question(text) for text in "123"], cache=cache, workers=1)
        assert cache.count() == 3
    (line,) = [one for one in caplog.records if "judge-2026-08-06" in one.getMessage()]
    assert line.levelname == "INFO"


def test_the_key_of_a_request_names_the_weights_or_the_address(server):
    here, there = client(server), OpenAI(openai_params("http://elsewhere/v1"), calls())
    assert here.key(question()) != there.key(question())
    named = [OpenAI(openai_params(url, digest="llama-70b@2"), calls()) for url in ("http://a/v1", "http://b/v1")]
    assert named[0].key(question()) == named[1].key(question()) != here.key(question())
    assert here.key(question()) != here.key(replace(question(), repeat=1))
    assert server.requests == []
