"""The checks before a request, without a network: a clock and bodies that a test can make up."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from serving.conftest import SERVE

from instruct.serving import guard
from instruct.serving.guard import Guard
from instruct.serving.metrics import Metrics

ENGINE = SimpleNamespace(unfinished=0, active=0, alive=True)


def make_guard(**changes):
    """A guard and the bodies that it let through."""
    passed = []

    async def app(scope, receive, send):
        passed.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return Guard(app, replace(SERVE, **changes), "", Metrics(ENGINE)), passed


def code_of(one, *parts, **given):
    """What a guard says of a POST whose body comes in these parts: an error's code, or "" if it let it through."""
    return answer_of(one, *parts, **given)[0]


def answer_of(one, *parts, host="localhost:8080", client="1.2.3.4", **headers):
    """The same, and the headers of the answer."""
    named = {"host": host, "content-type": "application/json", **headers}
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "client": (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }  # fmt: skip
    coming = [{"type": "http.request", "body": part, "more_body": place} for place, part in enumerate(parts[::-1])][
        ::-1
    ]
    said = []

    async def receive():
        return coming.pop(0)

    async def send(message):
        said.append(message)

    asyncio.run(one(scope, receive, send))
    code = "" if said[0]["status"] == 200 else json.loads(said[1]["body"])["error"]["code"]
    return code, dict(said[0]["headers"])


def test_each_client_may_ask_so_often_in_any_minute_and_again_in_the_next(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now))
    one, _ = make_guard(requests_per_minute=2)
    codes = []
    for now in (1000.0, 1030.0, 1059.0, 1060.5, 1061.0, 1090.5):  # noqa: B007 (the clock reads it)
        codes.append(code_of(one, b"{}"))
    assert codes == ["", "", "rate_limit_exceeded", "", "rate_limit_exceeded", ""]
    assert code_of(one, b"{}", client="5.6.7.8") == ""


def test_a_refused_client_is_told_when_its_next_request_is_answered(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now))
    one, _ = make_guard(requests_per_minute=1)
    assert code_of(one, b"{}") == ""
    for now, wait in ((1000.5, 60), (1001.0, 59), (1059.9, 1)):  # noqa: B007 (the clock reads it)
        code, headers = answer_of(one, b"{}")
        assert (code, headers[b"retry-after"]) == ("rate_limit_exceeded", str(wait).encode())
    now += wait
    assert code_of(one, b"{}") == ""


def test_a_proxy_is_let_through_that_passes_the_host_on_to_another_address_of_this_machine():
    name, page = "chat.example.com", "https://chat.example.com"
    assert code_of(make_guard()[0], b"{}", host=name) == "wrong_host"
    one, _ = make_guard(host="10.0.0.5")
    assert code_of(one, b"{}", host=name, origin=page) == code_of(one, b"{}", host=name) == ""
    assert code_of(one, b"{}", host="10.0.0.5:8080", origin=page) == "wrong_origin"


def test_a_body_is_measured_whole_in_however_many_parts_it_comes():
    one, passed = make_guard(body_bytes=1024)
    assert code_of(one, b"a" * 512, b"", b"b" * 512) == "" and passed == [b"a" * 512 + b"b" * 512]
    assert code_of(one, b"a" * 512, b"b" * 512, b"c") == code_of(one, b"a" * 1025) == "request_too_large"
    assert len(passed) == 1


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("http://localhost:8080", ""),
        ("http://localhost:80801", "wrong_origin"),
        ("http://localhost:8080.evil.example", "wrong_origin"),
        ("http://localhost", "wrong_origin"),
        ("null", "wrong_origin"),
    ],
)
def test_only_the_own_page_may_send_requests(origin, code):
    assert code_of(make_guard()[0], b"{}", origin=origin) == code


@pytest.mark.parametrize("host", ["localhost.evil.example", "evil.example:127", "127.0.0.1.evil.example:80", ""])
def test_only_names_of_this_machine_are_answered(host):
    assert code_of(make_guard()[0], b"{}", host=host) == "wrong_host"
    assert code_of(make_guard()[0], b"{}", host="[::1]:8080") == code_of(make_guard()[0], b"{}", host="[::1]") == ""
