import json
import re
import socket
import threading
import time
from base64 import b64decode
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from urllib.parse import urlsplit

import pytest
from evaluation.ollama_server import OllamaServer
from servers.settings import calls

from instruct.core.errors import ServerError
from instruct.servers import answers, http
from instruct.servers.base import Reply
from instruct.servers.exchange import _proxy_to
from instruct.servers.http import Http, UnansweredError


@pytest.fixture
def server():
    """Answers what the test scripts, whatever it is asked."""
    with OllamaServer() as server:
        yield server


@pytest.fixture
def waits(monkeypatch):
    seconds: list[float] = []
    monkeypatch.setattr(http.time, "sleep", seconds.append)
    monkeypatch.setattr(http.random, "uniform", lambda low, high: high)
    return seconds


def transport(url: str, **fields) -> Http:
    return Http(url, calls(**fields), "servers.test", headers={})


def ask(server, **fields) -> Reply:
    return transport(server.url, **fields).ask("/ask", {"a": 1}, lambda value: Reply(text=str(value.get("text"))))


@contextmanager
def raw_server(
    answer: bytes | list[bytes], *, pause: float = 0.0, between: float = 0.0, heard: list[bytes] | None = None
):
    """Sends these bytes or pieces to anyone who connects, then is silent for `pause` seconds and closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = threading.Event()
    connections: list[socket.socket] = []

    def serve() -> None:
        while not end.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            try:
                request = connection.recv(65536)
                if heard is not None:
                    heard.append(request)
                for part in [answer] if isinstance(answer, bytes) else answer:
                    connection.sendall(part)
                    if end.wait(between):
                        break
                end.wait(pause)
            except OSError:
                pass
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        end.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
def test_a_busy_server_is_asked_again_with_growing_waits(server, waits, status):
    server.scripted.extend([(status, {"error": "busy"})] * 4 + [(200, {"text": "fine"})])
    reply = ask(server, retries=4, backoff=1.0)
    assert (reply.text, reply.attempts, reply.problem) == ("fine", 5, "")
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_attempts_are_limited_and_counted(server, waits, retries):
    server.scripted.extend([(503, {"error": "busy"})] * 10)
    reply = ask(server, retries=retries)
    assert (reply.text, reply.answered, reply.attempts) == ("", False, retries + 1)
    assert "503 (busy)" in reply.problem and "servers.test.url" in reply.problem
    assert len(server.requests) == retries + 1


def test_waits_never_exceed_half_a_minute(server, waits):
    server.scripted.extend([(500, {})] * 11)
    ask(server, retries=10, backoff=2.0)
    assert waits == [2, 4, 8, 16, 30, 30, 30, 30, 30, 30]


def test_waits_are_spread_so_that_workers_do_not_come_back_at_once(server, monkeypatch):
    seconds: list[float] = []
    monkeypatch.setattr(http.time, "sleep", seconds.append)
    server.scripted.extend([(500, {})] * 21)
    ask(server, retries=20, backoff=20.0)
    assert len(set(seconds)) > 10 and all(10 <= second <= 30 for second in seconds)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(("when", "wait"), [("2", 2), ("date", 4), ("soon", 0), ("-5", 0)])
def test_retry_after_is_obeyed_as_seconds_or_as_a_date(monkeypatch, status, when, wait):
    seconds: list[float] = []
    now = time.monotonic()
    monkeypatch.setattr(http.time, "monotonic", lambda: now + sum(seconds))
    monkeypatch.setattr(http.time, "sleep", seconds.append)
    monkeypatch.setattr(http.time, "time", lambda: 1_800_000_000.0)
    when = formatdate(1_800_000_004, usegmt=True) if when == "date" else when
    head = f"HTTP/1.1 {status}\r\nRetry-After: {when}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with raw_server(head.encode()) as (url, connections):
        transport(url, retries=1).ask("/ask", {}, lambda value: Reply(text=""))
        assert len(connections) == 2
    assert sum(seconds) == pytest.approx(wait)


def test_retry_after_holds_for_all_workers(monkeypatch):
    seconds: list[float] = []
    now = time.monotonic()
    monkeypatch.setattr(http.time, "monotonic", lambda: now)
    monkeypatch.setattr(http.time, "sleep", lambda wait: (seconds.append(wait), setattr(one, "_closed_until", 0.0)))
    head = b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with raw_server(head) as (url, _):
        one = transport(url, retries=1)
        one.ask("/ask", {}, lambda value: Reply(text=""))
    assert seconds == [7.0]
    assert one._closed_until == 0.0


def test_a_wait_of_an_hour_is_no_wait_but_an_answer(waits):
    head = b"HTTP/1.1 429 X\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with raw_server(head) as (url, connections):
        reply = transport(url).ask("/ask", {}, lambda value: Reply(text=""))
        assert "3600 s" in reply.problem and len(connections) == 1
    assert waits == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_not_repeated_and_stops_no_other(server, waits, status):
    server.scripted.append((status, {"error": {"message": "too long", "code": status}}))
    reply = ask(server)
    assert f"{status} (too long)" in reply.problem
    assert (reply.answered, reply.attempts, waits) == (True, 1, [])


@pytest.mark.parametrize("status", [401, 404])
def test_what_holds_for_every_request_is_an_error_at_once(server, waits, status):
    server.scripted.append((status, {"error": "no\nno"}))
    with pytest.raises(ServerError, match=rf"{status} \(no no\).*servers\.test"):
        ask(server)
    assert (waits, len(server.requests)) == ([], 1)


@pytest.mark.parametrize("status", [302, 303, 307, 402, 403, 405, 406, 409, 410, 418, 451, 499, 501, 505])
def test_any_other_refusal_is_the_failure_of_one_request_and_is_not_tried_again(server, waits, status):
    server.scripted.append((status, {"error": "no"}))
    reply = ask(server)
    assert f"{status} (no)" in reply.problem and "servers.test" in reply.problem
    assert (reply.answered, reply.attempts, waits, len(server.requests)) == (False, 1, [], 1)


@pytest.mark.parametrize("status", [408, 425])
def test_a_passing_refusal_is_tried_again(server, waits, status):
    server.scripted.extend([(status, {"error": "no"}), (200, {"text": "fine"})])
    assert (ask(server).text, len(waits)) == ("fine", 1)


@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_every_success_with_an_answer_is_one(server, waits, status):
    server.scripted.append((status, {"text": "fine"}))
    assert (ask(server).text, waits) == ("fine", [])


@pytest.mark.parametrize("error", ["crashed", {"message": "crashed"}, {"message": "crashed", "code": 500}])
def test_an_error_inside_a_200_is_a_failure_of_the_server(server, waits, error):
    server.scripted.extend([(200, {"error": error}), (200, {"text": "fine"})])
    assert (ask(server).text, len(waits)) == ("fine", 1)


def test_an_error_inside_a_200_that_is_a_refusal_is_one(server, waits):
    server.scripted.append((200, {"error": {"message": "too long", "code": 400}}))
    assert "400 (too long)" in ask(server).problem
    assert waits == []


def test_an_error_in_the_midst_of_a_stream_is_seen(server, waits):
    server.scripted.extend([(200, b'{"done": false}\n{"error": "crashed"}\n'), (200, {"text": "fine"})])
    assert ask(server).attempts == 2


def test_the_lines_of_a_stream_add_up(server):
    lines = b'{"message": {"content": "8"}, "done": false}\n\n{"message": {"content": "5"}, "done": true}\n'
    server.scripted.append((200, lines))
    whole = transport(server.url).post("/ask", {})
    assert whole == {"message": {"role": "assistant", "content": "85"}, "done": True}


@pytest.mark.parametrize(
    "body", [b"<html>gateway</html>", b"85", b'"85"', b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b"1" * 5000]
)
def test_what_is_no_json_object_is_not_asked_for_again(server, waits, body):
    server.scripted.append((200, body))
    reply = ask(server)
    assert "JSON" in reply.problem and (reply.answered, waits) == (False, [])


@pytest.mark.parametrize("body", [b"", b'{"text": "fi', b'{"a": 1}\n{"b"'])
def test_an_answer_that_was_cut_off_is_asked_for_again(server, waits, body):
    server.scripted.extend([(200, body), (200, {"text": "fine"})])
    assert (ask(server).text, len(waits)) == ("fine", 1)


def test_a_server_that_is_not_running_is_one_line_that_says_what_to_do(waits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reply = transport(f"http://127.0.0.1:{port}", retries=2).ask("/ask", {}, lambda value: Reply(text=""))
    assert f":{port}/ask" in reply.problem and "Connection refused" in reply.problem and reply.attempts == 3
    assert "0x" not in reply.problem and reply.problem.isprintable()


def test_a_server_that_falls_silent_is_not_asked_again(waits):
    with raw_server(b"", pause=60) as (url, connections):
        reply = transport(url, read=0.1, total=5.0).ask("/ask", {}, lambda value: Reply(text=""))
        assert len(connections) == 1
    assert "servers.calls.read" in reply.problem and not reply.answered
    assert waits == []


RIGHT = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"text": "ok"}'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n" + RIGHT[-14:] + b"\r\n0\r\n"


@pytest.mark.parametrize(
    "begin, again, end",
    [
        (b"", b" ", RIGHT),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a", b"\r\n" + RIGHT[17:]),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", RIGHT),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", RIGHT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 214\r\n\r\n", b" ", RIGHT[-14:]),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" ", RIGHT[-14:]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", CHUNKED[47:]),
        (CHUNKED, b"X-More: a\r\n", b"\r\n"),
    ],
    ids=["status", "header", "100", "103", "body", "endless body", "chunks", "trailers"],
)
def test_the_deadline_holds_for_the_whole_exchange(begin, again, end):
    """Each piece comes in time; the whole comes only to who waits for all 200 of them."""
    with raw_server([begin, *[again] * 200, end], between=0.02) as (url, connections):
        with pytest.raises(UnansweredError, match=r"servers\.calls\.total"):
            transport(url, read=5.0, total=0.3).post("/ask", {})
        assert len(connections) == 1


@pytest.mark.parametrize("again", [b"HTTP/1.1 100 Continue\r\n\r\n", b""])
def test_what_comes_in_time_is_read_however_it_is_cut(again):
    pieces = [again, again, *(RIGHT[i : i + 7] for i in range(0, len(RIGHT), 7))]
    with raw_server(pieces, between=0.001) as (url, _):
        assert transport(url).post("/ask", {}) == {"text": "ok"}


def test_an_endless_answer_is_cut_off(server):
    server.scripted.append((200, b"9" * 9_000_000))
    assert "8 MB" in ask(server).problem


def test_answers_that_are_given_up_do_not_use_up_the_connections(server):
    """They once did: after as many as there are workers, every worker waited for ever."""
    line = transport(server.url)
    server.scripted.extend([(200, b"9" * 9_000_000)] * 3 + [(200, {"text": "fine"})])
    replies: list[Reply] = []
    ask_one = partial(line.ask, "/ask", {}, lambda value: Reply(text=value["text"]))
    thread = threading.Thread(target=lambda: replies.extend(ask_one() for _ in range(4)), daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert [reply.text for reply in replies] == ["", "", "", "fine"]


def test_a_connection_that_the_server_closed_meanwhile_costs_no_answer(server, waits):
    line = transport(server.url, retries=1)
    server.scripted.extend([(200, {"text": "1"}), (200, {"text": "2"})])
    assert line.post("/ask", {}) == {"text": "1"}
    assert line.post("/ask", {}) == {"text": "2"}


def test_what_is_not_http_is_said(waits):
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n" * 3) as (url, _):
        reply = transport(url, retries=0).ask("/ask", {}, lambda value: Reply(text=""))
        assert not reply.answered and url in reply.problem and "\n" not in reply.problem


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_stands_between_us_and_this_machine(server, monkeypatch, name):
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.scripted.append((200, {"text": "fine"}))
    assert ask(server).text == "fine"


def test_a_server_elsewhere_is_reached_through_the_proxy(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, server.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.scripted.append((200, {"text": "by proxy"}))
    assert transport("http://judge.example").post("/ask", {}) == {"text": "by proxy"}
    assert server.requests[0][1] == "http://judge.example/ask"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("user", "login"), [("me:p%40ss@", b"me:p@ss"), ("me@", b"me:"), ("", None)])
def test_a_proxy_gets_the_user_and_password_of_its_address_and_no_message_shows_them(monkeypatch, scheme, user, login):
    heard: list[bytes] = []
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with raw_server(refusal, heard=heard) as (url, _):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url.replace("//", f"//{user}"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ServerError, match="407") as caught:
            transport(f"{scheme}://judge.example").get("/ask", retries=0)
    (request,) = heard
    sent = re.findall(rb"^Proxy-Authorization: Basic (\S+)", request, re.MULTILINE)
    assert [b64decode(one) for one in sent] == ([login] if login else [])
    assert not [one for one in ("p%40ss", "p@ss", *map(bytes.decode, sent)) if one in str(caught.value)]


@pytest.mark.parametrize("excepted", ["judge.lan:8000", ".lan:8000", "judge.lan", "other.lan, JUDGE.lan:8000", "*"])
def test_a_server_that_no_proxy_names_with_or_without_its_port_is_reached_directly(monkeypatch, excepted):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", excepted)
    assert _proxy_to(urlsplit("http://judge.lan:8000/v1")) is None
    assert (_proxy_to(urlsplit("http://judge.lan:8001/v1")) is None) == (":" not in excepted)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.0.0.2", "[::1]", "localhost"])
def test_no_proxy_stands_before_any_address_of_this_machine(monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert _proxy_to(urlsplit(f"http://{host}:8000/v1")) is None


# A TLS record that announces 16 kB of handshake, which then come byte by byte.
HANDSHAKE = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"


@pytest.mark.parametrize("begin, by_proxy", [(b"HTTP/1.1 200 OK\r\nX-Slow: ", True), (HANDSHAKE, False)])
def test_the_deadline_holds_for_the_proxys_answer_and_for_tls(monkeypatch, begin, by_proxy):
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with raw_server([begin, *[b"a"] * 200], between=0.02) as (url, connections):
        if by_proxy:
            monkeypatch.setenv("https_proxy", url)
        address = "https://judge.example" if by_proxy else url.replace("http:", "https:")
        with pytest.raises(UnansweredError, match=r"servers\.calls\.total"):
            transport(address, read=5.0, total=0.3).post("/ask", {})
        assert len(connections) == 1


def test_a_proxy_that_falls_silent_cannot_be_reached(monkeypatch):
    with raw_server(b"", pause=60) as (url, _):
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(UnansweredError, match="cannot be reached") as caught:
            transport("https://judge.example", connect=0.1, retries=0).post("/ask", {})
        assert not caught.value.reached


def test_a_redirect_is_not_followed(server):
    server.scripted.append((307, {}))
    assert "307" in ask(server).problem
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"1\n", b"{}\n", b'{"a": 1}\n', b"[1]\n", b'{"message": {"content": "a"}}\n', b"{"])
def test_the_work_on_a_body_is_bounded(monkeypatch, body):
    calls = []
    loads = json.loads
    monkeypatch.setattr(answers.json, "loads", lambda text: calls.append(1) or loads(text))
    answers.json_object(body * (1_000_000 // len(body)))
    assert len(calls) <= answers.MOST_LINES + 2


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500])
@pytest.mark.parametrize("error", ["\x1b[2J\x1b[31mred\x07", {"message": "a\rb\u202ec\x9b"}, {"\x1b": "\x1b"}])
def test_no_control_character_of_a_server_is_shown(server, waits, status, error):
    server.scripted.extend([(status, {"error": error})] * 9)
    problem = ask(server, retries=0).problem
    assert problem.isprintable() and "\u202e" not in problem
    server.scripted.clear()
    server.scripted.append((200, b"\x1b[31m<html>\x07"))
    assert ask(server, retries=0).problem.isprintable()
