"""What real clients see: the openai SDK, and raw requests for what an SDK would not send."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import openai
import pytest
import torch
from generation.conftest import GENERATE
from serving.conftest import ALPACA, SERVE
from serving.in_thread import InThread

from instruct.core.files import write_json
from instruct.core.locks import lock
from instruct.serving.lanes import Lane
from instruct.serving.server import Served
from instruct.text.prompts import Turn

QUESTIONS = [f"Tell me about the {word}." for word in ("sun", "moon", "river", "tree", "stone", "cloud", "fire", "sea")]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as one:
        yield one


@pytest.fixture
def raw(server):
    with httpx.Client(base_url=server.url, timeout=60) as one:
        yield one


def chat(client, question, model="sft", **options):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], **options)


def test_greedy_chat_equals_the_offline_engine_alone_and_32_at_once(client, systems, offline):
    asked = [(model, question) for model in systems for question in QUESTIONS] * 2
    expected = {
        (name, question): offline(system, {"0": system.template.render(question)})["0"]
        for name, system in systems.items()
        for question in QUESTIONS
    }
    assert len(set(expected.values())) > 20, "answers must differ for this test to mean anything"

    def ask(one):
        return chat(client, one[1], one[0]).choices[0].message.content

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, asked))
    alone = [ask(one) for one in asked[:4]]
    assert [*together, *alone] == [expected[one] for one in [*asked, *asked[:4]]]


def test_drawn_answers_equal_the_offline_engine_with_that_seed(client, systems, offline):
    prompts = {str(i): ALPACA.render(QUESTIONS[0]) for i in range(4)}
    expected = offline(systems["sft"], prompts, temperature=1.0, seed=99)
    got = chat(client, QUESTIONS[0], temperature=1.0, seed=99, n=4)
    assert [one.message.content for one in got.choices] == list(expected.values())
    assert len(set(expected.values())) > 1
    again = chat(client, QUESTIONS[0], temperature=1.0, seed=99, n=4, stream=True)
    texts = ["", "", "", ""]
    for chunk in again:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == list(expected.values())


def test_a_stream_is_the_whole_answer_in_pieces_with_its_usage(client):
    whole = chat(client, QUESTIONS[1])
    chunks = list(chat(client, QUESTIONS[1], stream=True, stream_options={"include_usage": True}))
    said = [one.choices[0].delta.content for one in chunks if one.choices and one.choices[0].delta.content]
    assert "".join(said) == whole.choices[0].message.content and len(said) > 3
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert {one.system_fingerprint for one in chunks} == {"digest-of-sft"}


def test_a_stop_string_ends_an_answer_before_it(client):
    words = chat(client, QUESTIONS[2]).choices[0].message.content
    stop = words[len(words) // 2 :][:4]
    for options in ({}, {"stream": True}):
        got = chat(client, QUESTIONS[2], stop=[stop, "never said"], **options)
        if options:
            text = "".join(one.choices[0].delta.content or "" for one in got)
        else:
            text = got.choices[0].message.content
            assert got.choices[0].finish_reason == "stop"
        assert text == words[: words.find(stop)].strip()


def test_an_answer_to_its_full_length_goes_on_after_an_end_token_that_is_also_a_stop_string(client, systems, tmp_path):
    whole = chat(client, QUESTIONS[0], logprobs=True).choices[0]
    token = next(bytes(one.bytes) for one in whole.logprobs.content[2:] if bytes(one.bytes).isascii())
    system = systems["sft"]
    tokenizer = replace(system.tokenizer, eos_id=system.tokenizer.encoding.encode_single_token(token))
    template = replace(system.template, stop_strings=(token.decode(), *system.template.stop_strings))
    ending = InThread(Served({"sft": replace(system, tokenizer=tokenizer, template=template)}, SERVE, root=tmp_path))
    try:
        with openai.OpenAI(base_url=f"{ending.url}/v1", api_key="unused", max_retries=0) as other:
            ended = chat(other, QUESTIONS[0]).choices[0]
            endless = chat(other, QUESTIONS[0], extra_body={"ignore_eos": True}).choices[0]
            streamed = list(chat(other, QUESTIONS[0], extra_body={"ignore_eos": True}, stream=True))
    finally:
        ending.close()
    assert whole.message.content.startswith(ended.message.content) and ended.finish_reason == "stop"
    assert (endless.message.content, endless.finish_reason) == (whole.message.content, "length")
    assert "".join(one.choices[0].delta.content or "" for one in streamed) == whole.message.content


def test_echoed_logprobs_equal_those_of_the_whole_forward_pass(client, systems):
    system = systems["base"]
    texts = ["The sun is a star.", "Rivers flow to the sea, and"]
    ids = [system.tokenizer.encode(text) for text in texts]
    got = client.completions.create(model="base", prompt=ids, max_tokens=1, echo=True, logprobs=2, temperature=0)
    for choice, row in zip(got.choices, ids, strict=True):
        with torch.no_grad():
            logprobs = system.model(torch.tensor([row]))[0].log_softmax(-1)
        expected = [float(logprobs[i, token]) for i, token in enumerate(row[1:])]
        told = choice.logprobs.token_logprobs
        assert told[0] is None
        assert told[1 : len(row)] == pytest.approx(expected, abs=1e-4)
        assert told[len(row)] == pytest.approx(float(logprobs[-1].max()), abs=1e-4)
        assert all(len(best) in (2, 3) for best in choice.logprobs.top_logprobs[1:])
        assert "".join(choice.logprobs.tokens) == choice.text
    only = client.completions.create(model="base", prompt=texts, max_tokens=0, echo=True, logprobs=0)
    assert [one.text for one in only.choices] == texts


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"stream": True}])
def test_an_echo_without_new_tokens_ends_also_without_logprobs(raw, server, more):
    body = {"model": "base", "prompt": "The sun is", "max_tokens": 0, "echo": True, **more}
    got = raw.post("/v1/completions", json=body, timeout=20)
    if "stream" in more:
        pieces = [json.loads(line[6:]) for line in got.text.split("\n\n")[:-2]]
        assert "".join(one["choices"][0]["text"] for one in pieces) == "The sun is"
    else:
        told = [(one["text"], one["logprobs"], one["finish_reason"]) for one in got.json()["choices"]]
        assert told == [("The sun is", None, "length")] * more.get("n", 1)
        assert got.json()["usage"]["completion_tokens"] == 0
    assert server.served.engine.unfinished == 0


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"echo": True, "max_tokens": 0}, {"echo": True, "n": 2}])
@pytest.mark.parametrize("prompt", ["The sun is", "Sun"])  # a prompt of one token has no score
def test_streamed_logprobs_are_those_of_the_whole_answer(raw, prompt, more):
    body = {"model": "base", "prompt": prompt, "max_tokens": 5, "temperature": 0, "logprobs": 2, **more}
    whole = raw.post("/v1/completions", json=body).json()["choices"]
    got = raw.post("/v1/completions", json={**body, "stream": True}).text.split("\n\n")[:-2]
    pieces = [json.loads(line[6:])["choices"][0] for line in got]
    for choice in whole:
        own = [one for one in pieces if one["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == [choice["finish_reason"]]
        told = [one["logprobs"] for one in own if one["logprobs"]]
        for name, expected in choice["logprobs"].items():
            assert expected and [value for one in told for value in one[name]] == expected


@pytest.mark.parametrize("field", ["instruction", "output"])
def test_no_record_is_kept_that_the_data_checks_would_refuse_as_empty(raw, field):
    got = raw.post("/mine", json={"instruction": "Name a bird.", "output": "An owl.", field: " \n"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize("name", ["return_token_strs", "with_token_strs"])
def test_tokens_are_spelled_if_asked_by_either_name(raw, name):
    got = raw.post("/tokenize", json={"prompt": "Hello there", name: True}).json()
    assert got["token_strs"] == ["Hello", " there"]
    assert raw.post("/tokenize", json={"prompt": "Hello", name: False}).json()["token_strs"] is None


@pytest.mark.parametrize(
    ("body", "param"), [({}, "tokens"), ({"tokens": "abc"}, "tokens"), ({"tokens": [1, "x"]}, "tokens")]
)
def test_refused_tokens_are_named_by_their_field(raw, body, param):
    got = raw.post("/detokenize", json=body)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


def test_a_prompt_as_text_and_as_tokens_is_the_same_prompt(client, systems):
    text = ALPACA.render("Name a color.")
    ids = systems["sft"].tokenizer.encode(text)
    got = client.completions.create(model="sft", prompt=[text, text], max_tokens=8)
    other = client.completions.create(model="sft", prompt=[ids, ids], max_tokens=8)
    assert len({one.text for one in [*got.choices, *other.choices]}) == 1
    assert got.usage.prompt_tokens == 2 * len(ids)


def test_a_text_begins_with_the_familys_begin_token_and_token_ids_stay(systems, tmp_path):
    system, begin = systems["sft"], 50256
    text, ids = ALPACA.render("Name a color."), system.tokenizer.encode(ALPACA.render("Name a color."))
    told, said = {"prompt": text}, {"messages": [{"role": "user", "content": "Name a color."}]}
    beginning = replace(system, tokenizer=replace(system.tokenizer, begin_ids=(begin,)))
    one = InThread(Served({"sft": beginning}, SERVE, root=tmp_path))
    try:
        with httpx.Client(base_url=one.url, timeout=60) as raw:
            for body, expected in (
                (told, [begin, *ids]),
                ({**told, "add_special_tokens": True}, [begin, *ids]),
                ({**told, "add_special_tokens": False}, ids),
                ({"prompt": ""}, [begin]),
                ({"prompt": "", "add_special_tokens": False}, []),
                (said, [begin, *ids]),
                ({**said, "add_special_tokens": False}, [begin, *ids]),
            ):
                assert raw.post("/tokenize", json=body).json()["tokens"] == expected
            assert raw.get("/tokenizer_info").json()["bos_token"] == "<|endoftext|>"
            got = [
                raw.post("/v1/completions", json={"model": "sft", "prompt": prompt, "logprobs": 0}).json()
                for prompt in (text, [begin, *ids], ids)
            ]
    finally:
        one.close()
    assert [one["usage"]["prompt_tokens"] for one in got] == [len(ids) + 1, len(ids) + 1, len(ids)]
    assert got[0]["choices"] == got[1]["choices"] != got[2]["choices"]


def test_chat_logprobs_tell_the_likeliest_tokens(client):
    got = chat(client, QUESTIONS[3], logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert len(got) == GENERATE.max_new_tokens
    assert all(one.top_logprobs[0].logprob == one.logprob and len(one.top_logprobs) == 5 for one in got)


def test_a_template_that_knows_turns_reads_them_as_rendered(client, systems, offline):
    system = systems["dpo"]
    first = chat(client, QUESTIONS[0], "dpo").choices[0].message.content
    said = [
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Why?"},
    ]
    got = client.chat.completions.create(model="dpo", messages=said)
    rendered = system.template.prompt([Turn(QUESTIONS[0], "", first), Turn("Why?")])
    assert got.choices[0].message.content == offline(system, {"0": rendered})["0"]


def test_an_answer_of_the_sdk_is_a_message_of_the_next_request(client):
    answered = chat(client, QUESTIONS[0], "dpo").choices[0].message
    said = [{"role": "user", "content": QUESTIONS[0]}, answered.model_dump(), {"role": "user", "content": "Why?"}]
    got = client.chat.completions.create(model="dpo", messages=said)
    said[1] = {"role": "assistant", "content": answered.content}
    assert got.choices[0].message == client.chat.completions.create(model="dpo", messages=said).choices[0].message


@pytest.mark.parametrize("field", ["refusal", "annotations", "audio", "function_call", "tool_calls"])
def test_what_a_message_asks_for_is_refused_and_its_empty_fields_are_not(raw, field):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, *SAID]
    for value, status in ((None, 200), ([], 200), ([{"type": "x"}], 400), ({"id": "x"}, 400), ("No.", 400)):
        said[1][field] = value
        got = raw.post("/v1/chat/completions", json={"model": "dpo", "messages": said})
        assert got.status_code == status and (status == 200 or field in got.json()["error"]["message"])


SAID = [{"role": "user", "content": "Hello"}]
REFUSED = [
    ({"model": "sft", "messages": SAID, "tools": []}, "tools", "unknown_parameter"),
    ({"model": "sft", "messages": SAID, "presence_penalty": 0.5}, "presence_penalty", "invalid_value"),
    ({"model": "sft", "messages": SAID, "temperature": "0"}, "temperature", "invalid_value"),
    ({"model": "sft", "messages": SAID, "temperature": 2.1}, "temperature", "invalid_value"),
    ({"model": "sft", "messages": SAID, "n": 0}, "n", "invalid_value"),
    ({"model": "sft", "messages": SAID, "n": 17}, "n", None),
    ({"model": "sft", "messages": SAID, "max_tokens": -1}, "max_tokens", "invalid_value"),
    ({"model": "sft", "messages": SAID, "max_tokens": 1000}, "messages", "context_length_exceeded"),
    ({"model": "sft", "messages": SAID, "stop": ""}, "stop", "invalid_value"),
    ({"model": "sft", "messages": SAID, "top_logprobs": 3}, "top_logprobs", None),
    ({"model": "sft", "messages": SAID, "stream_options": {"include_usage": True}}, "stream_options", None),
    ({"model": "sft", "messages": [{"role": "user", "content": "word " * 400}]}, "messages", "context_length_exceeded"),
    ({"model": "gpt-4", "messages": SAID}, "model", "model_not_found"),
    ({"model": "sft", "messages": []}, "messages", "empty_messages"),
    ({"model": "sft", "messages": [{"role": "system", "content": "x"}, *SAID]}, "messages[0].role", "unsupported_role"),
    ({"model": "sft", "messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_role"),
    ({"model": "sft", "messages": SAID * 2}, "messages", "unsupported_turns"),
    ({"model": "dpo", "messages": SAID * 2}, "messages[1].role", "unsupported_turns"),
    ({"model": "sft", "messages": [{"role": "user", "content": " "}]}, "messages[0].content", "empty_message"),
    ({"model": "sft", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "invalid_value"),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED)
def test_a_request_that_cannot_be_met_is_refused_in_openais_form(raw, body, param, code):
    got = raw.post("/v1/chat/completions", json=body)
    error = got.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (got.status_code, error["param"], error["code"]) == (404 if code == "model_not_found" else 400, param, code)
    if code == "context_length_exceeded":
        assert "256 tokens" in error["message"]


IMAGE, PART = [{"type": "image_url", "image_url": {}}], {"type": "text", "text": "Hi"}


@pytest.mark.parametrize(
    ("route", "field", "value", "place", "reason"),
    [
        ("chat/completions", "stop", ["a"] * 17, "stop", "at most 16"),
        ("chat/completions", "stop", ["a", 3], "stop.1", "string"),
        ("chat/completions", "stop", "", "stop", "at least 1"),
        ("chat/completions", "stop", {}, "stop", "a list of texts"),
        ("chat/completions", "messages", [{"role": "user", "content": None}], "messages.0.content", "a text or"),
        ("chat/completions", "messages", [{"role": "user", "content": IMAGE}], "messages.0.content.0.type", "'text'"),
        (
            "chat/completions",
            "messages",
            [{"role": "user", "content": [{**PART, "tokens": 1}]}],
            "messages.0.content.0.tokens",
            "not a parameter",
        ),
        ("chat/completions", "body", 1, "body", "not a parameter"),
        ("chat/completions", "tokens", 1, "tokens", "not a parameter"),
        ("completions", "prompt", ["a", 1], "prompt.1", "string"),
        ("completions", "prompt", [1, "a"], "prompt.1", "integer"),
        ("completions", "prompt", [[1], [-1]], "prompt.1.0", "greater"),
        ("completions", "prompt", None, "prompt", "token ids"),
    ],
)
def test_a_refusal_names_the_field_as_the_client_knows_it_and_the_reason(raw, route, field, value, place, reason):
    body = {"model": "sft", **({"messages": SAID} if route == "chat/completions" else {"prompt": "a"}), field: value}
    got = raw.post(f"/v1/{route}", json=body)
    error = got.json()["error"]
    assert got.status_code == 400 and error["param"] in place.split(".")
    assert error["message"].replace(":", " ").split()[0] == place and reason in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b"[1]",
        b'{"model": NaN}',
        b"[" * 50_000,
        b'{"a": "\\ud800"}',
        b'{"model": "sft", "messages": [], "\\ud800": 1}',
    ],
)
def test_a_body_that_is_no_request_is_refused_and_the_server_goes_on(raw, body):
    got = raw.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400 and got.json()["error"]["type"] == "invalid_request_error"
    assert raw.get("/health").status_code == 200


@pytest.mark.parametrize("body", [b"", b"[1]", b'"text"'])
def test_a_body_that_is_no_object_is_told_what_it_must_be(raw, body):
    got = raw.post("/mine", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400 and "object" in got.json()["error"]["message"].split()


def test_sdk_sees_its_own_errors(client, serving):
    with pytest.raises(openai.NotFoundError):
        chat(client, "Hello", "gpt-4")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "word " * 400)
    assert caught.value.code == "context_length_exceeded"
    locked = serving(key="secret")
    address = {"base_url": f"{locked.url}/v1", "max_retries": 0}
    with openai.OpenAI(**address, api_key="guess") as wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with openai.OpenAI(**address, api_key="secret") as right:
        assert [one.id for one in right.models.list()] == ["base", "sft", "dpo"]


def test_requests_from_elsewhere_are_refused(raw):
    body = {"model": "sft", "messages": SAID}
    for headers, code in (
        ({"Origin": "https://evil.example"}, "wrong_origin"),
        ({"Host": "evil.example"}, "wrong_host"),
        ({"Content-Type": "text/plain"}, "wrong_content_type"),
    ):
        headers = {"Content-Type": "application/json", **headers}
        got = raw.post("/v1/chat/completions", content=json.dumps(body), headers=headers)
        assert got.json()["error"]["code"] == code


def test_limits_hold(serving):
    one = serving(requests_per_minute=3, body_bytes=2000, queue=0, slots=1)
    with httpx.Client(base_url=one.url, timeout=60) as raw:
        big = raw.post("/v1/chat/completions", json={"model": "sft", "messages": SAID, "input": "x" * 3000})
        assert (big.status_code, big.json()["error"]["code"]) == (413, "request_too_large")
        many = raw.post("/v1/completions", json={"model": "sft", "prompt": "a", "n": 4, "max_tokens": 2})
        assert (many.status_code, many.json()["error"]["code"]) == (429, "too_busy")
        for _ in range(2):
            assert raw.post("/v1/chat/completions", json={"model": "sft", "messages": SAID}).status_code == 200
        got = raw.post("/v1/chat/completions", json={"model": "sft", "messages": SAID})
        assert (got.status_code, got.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_a_client_cannot_pass_for_another_by_a_header(serving):
    one = serving(requests_per_minute=1)
    with httpx.Client(base_url=one.url, timeout=60) as raw:
        codes = [
            raw.post("/tokenize", json={"prompt": "a"}, headers={"X-Forwarded-For": f"10.0.0.{place}"}).status_code
            for place in range(3)
        ]
    assert codes == [200, 429, 429]


def test_slow_and_silent_clients_cost_others_nothing(serving):
    one = serving(patience=0.3)
    host, port = one.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    slow = socket.create_connection((host, int(port)))
    head = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 50"]
    slow.sendall("\r\n".join([*head, "", '{"mod']).encode())
    with httpx.Client(base_url=one.url, timeout=60) as raw:
        assert raw.post("/v1/chat/completions", json={"model": "sft", "messages": SAID}).status_code == 200
    assert b" 408 " in slow.recv(200)
    for each in [*silent, slow]:
        each.close()


HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
LATE = b"POST /v1/completions HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 99\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (HEAD, b"X: "), (HEAD + b"\r\n", HEAD), (LATE, b"{")],
    ids=["none", "half", "next", "body"],
)
def test_a_connection_is_closed_that_does_not_send_the_headers_of_its_next_request(serving, first, then):
    """The body of the last one, which its headers refuse, never comes whole."""
    one = serving(patience=0.3)
    host, port = one.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(first)
        got = slow.recv(1000) if first.endswith(b"\r\n\r\n") else b""
        slow.sendall(then)
        while more := slow.recv(1000):
            got += more
    assert got.count(b"HTTP/1.1 ") == first.count(b"\r\n\r\n")
    assert httpx.get(f"{one.url}/health").status_code == 200


def test_a_request_that_takes_longer_than_its_headers_may_is_answered(serving, monkeypatch):
    turn = Lane.turn
    monkeypatch.setattr(Lane, "turn", lambda self: time.sleep(0.05) or turn(self))
    one = serving(patience=0.2)
    with httpx.Client(base_url=one.url, timeout=60) as raw:
        for _ in range(2):
            assert raw.post("/v1/chat/completions", json={"model": "sft", "messages": SAID}).status_code == 200


def test_a_client_that_hangs_up_frees_its_slot(serving):
    one = serving(slots=1, queue=8)
    body = {"model": "sft", "messages": SAID, "max_tokens": 200, "stream": True}
    with (
        httpx.Client(base_url=one.url, timeout=60) as raw,
        raw.stream("POST", "/v1/chat/completions", json=body) as got,
    ):
        next(got.iter_lines())
    until = time.monotonic() + 30
    while one.served.engine.unfinished and time.monotonic() < until:
        time.sleep(0.01)
    assert one.served.engine.unfinished == 0
    assert one.served.engine.active == 0


def test_answers_beyond_the_queue_get_429_and_none_is_lost_or_mixed_up(serving, systems, offline):
    one = serving(slots=4, queue=8)
    expected = {text: offline(systems["sft"], {"0": ALPACA.render(text)})["0"] for text in QUESTIONS}

    def ask(place):
        text = QUESTIONS[place % len(QUESTIONS)]
        got = httpx.post(
            f"{one.url}/v1/chat/completions",
            json={"model": "sft", "messages": [{"role": "user", "content": text}]},
            timeout=60,
        )
        return text, got

    with ThreadPoolExecutor(60) as pool:
        got = list(pool.map(ask, range(120)))
    statuses = [one.status_code for _, one in got]
    assert set(statuses) == {200, 429}
    for text, reply in got:
        if reply.status_code == 200:
            assert reply.json()["choices"][0]["message"]["content"] == expected[text]
        else:
            assert reply.headers["retry-after"] == "1"


def test_a_server_that_ends_finishes_what_runs_and_refuses_new_requests(serving):
    one = serving()
    texts = []

    def listen():
        body = {"model": "sft", "messages": SAID, "max_tokens": 150}
        texts.append(httpx.post(f"{one.url}/v1/chat/completions", json=body, timeout=60).status_code)

    thread = threading.Thread(target=listen)
    thread.start()
    while not one.served.engine.unfinished:
        time.sleep(0.001)
    one.served.guard.draining = True
    got = httpx.post(f"{one.url}/v1/chat/completions", json={"model": "sft", "messages": SAID})
    assert (got.status_code, got.json()["error"]["code"]) == (503, "shutting_down")
    thread.join()
    assert texts == [200]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_a_server_does_not_finish_ends_with_an_error(serving, monkeypatch, capsys, stream):
    turn = Lane.turn
    monkeypatch.setattr(Lane, "turn", lambda self: time.sleep(0.05) or turn(self))
    one = serving(slots=1)
    body = {"model": "sft", "messages": SAID, "max_tokens": 200, "ignore_eos": True, "stream": stream}

    def ask(_):
        return httpx.post(f"{one.url}/v1/chat/completions", json=body, timeout=60)

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, place) for place in range(2)]  # one is answered, one waits
        while one.served.engine.unfinished < 2 or not one.served.engine.active:
            time.sleep(0.01)
        one.close()
        replies = [each.result() for each in asked]
    for reply in replies:
        assert reply.status_code == (200 if stream else 500)
        last = reply.text.split("\n\n")[-2].removeprefix("data: ") if stream else reply.text
        assert json.loads(last)["error"]["code"] == "engine_error"
    assert capsys.readouterr().err == ""


def test_a_client_that_never_reads_does_not_keep_the_server_from_ending(serving):
    one = serving()
    host, port = one.url.removeprefix("http://").split(":")
    body = {"model": "sft", "messages": SAID, "max_tokens": 200, "n": 16, "ignore_eos": True, "stream": True}
    text = json.dumps({**body, "logprobs": True, "top_logprobs": 20})
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        deaf.sendall("\r\n".join([*head, f"Content-Length: {len(text)}", "", text]).encode())
        for running in (True, False):
            until = time.monotonic() + 60
            while bool(one.served.engine.unfinished) != running and time.monotonic() < until:
                time.sleep(0.01)
        assert one.served.guard.running == 1, "it waits for the client"
        closing = threading.Thread(target=one.close)
        closing.start()
        closing.join(30)
        ended = not closing.is_alive()
    assert ended


def test_a_record_that_waits_for_the_file_keeps_no_other_request_waiting(serving, tmp_path):
    (tmp_path / "data/split").mkdir(parents=True)
    for part in ("val", "test"):
        record = {"id": part, "instruction": f"Name the largest {part} of all.", "input": "", "output": "One."}
        write_json(tmp_path / f"data/split/{part}.json", [record])
    one = serving()
    body = {"instruction": "Name a bird.", "output": "An owl."}
    with ThreadPoolExecutor(1) as pool:
        with (tmp_path / "data/mine.jsonl").open("a") as file:
            lock(file.fileno())
            kept = pool.submit(httpx.post, f"{one.url}/mine", json=body, timeout=60)
            time.sleep(1)  # it has reached the lock
            assert httpx.get(f"{one.url}/health", timeout=10).status_code == 200 and not kept.done()
        assert kept.result().status_code == 200


def test_metrics_count_what_was_served(serving):
    one = serving()
    with httpx.Client(base_url=one.url, timeout=60) as raw:
        usage = raw.post("/v1/chat/completions", json={"model": "sft", "messages": SAID}).json()["usage"]
        raw.post("/v1/chat/completions", json={"model": "sft", "messages": []})
        lines = raw.get("/metrics").text.splitlines()
    assert f'instruct_answer_tokens_total{{model="sft"}} {float(usage["completion_tokens"])}' in lines
    assert 'instruct_requests_total{path="/v1/chat/completions",status="400"} 1.0' in lines
