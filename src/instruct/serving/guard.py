"""Checks before every request: API key, host, size, rate, time to arrive, and shutdown.

The server is for programs and pages on this machine. A web page from another site could send requests here through
the user's browser, so other host names and other origins are refused, which prevents cross-site requests.
"""

import asyncio
import hmac
import json
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from instruct.serving.metrics import Metrics
from instruct.serving.problems import Problem
from instruct.serving.settings import ServeParams

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
OPEN = ("/", "/health")  # need no key
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_CLIENTS = 10_000  # clients whose requests are counted


class Guard:
    """An ASGI middleware around the routes; while `draining` it refuses new requests."""

    def __init__(self, app: App, params: ServeParams, key: str, metrics: Metrics) -> None:
        self._app, self._params, self._key, self._metrics = app, params, key, metrics
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()
        self.draining = False
        self.running = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or refuse in OpenAI's form."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.running += 1
        try:
            self._check(scope)
            body = await asyncio.wait_for(self._read(scope, receive), self._params.patience)
            await self._app(scope, replay(body, receive), note)
        except Problem as problem:
            await refuse(problem, note)
        except TimeoutError:
            await refuse(Problem("the request did not arrive in time", status=408, code="timeout"), note)
        finally:
            self.running -= 1
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _check(self, scope: Message) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self.draining and scope["path"] != "/metrics":
            raise Problem("the server is shutting down", status=503, code="shutting_down")
        self._check_origin(headers)
        if self._key and scope["path"] not in OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Problem("send a valid API key as `Authorization: Bearer KEY`", status=401, code="invalid_api_key")
        if scope["method"] == "POST":
            self._check_kind(headers)
            self._count(scope["client"][0] if scope.get("client") else "")

    def _check_origin(self, headers: dict[str, str]) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
        if self._params.host in LOOPBACK and name not in LOOPBACK:
            raise Problem(f"the host {host[:80]!r} is not this machine", status=403, code="wrong_host")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem("pages of other sites may not send requests", status=403, code="wrong_origin")

    def _check_kind(self, headers: dict[str, str]) -> None:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Problem("the content type must be application/json", status=415, code="wrong_content_type")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._params.body_bytes:
            self._refuse_large()

    def _refuse_large(self) -> None:
        raise Problem(
            f"the request is larger than {self._params.body_bytes} bytes", status=413, code="request_too_large"
        )

    def _count(self, client: str) -> None:
        if not (most := self._params.requests_per_minute):
            return
        times, now = self._recent.setdefault(client, deque()), time.monotonic()
        self._recent.move_to_end(client)
        if len(self._recent) > MOST_CLIENTS:
            self._recent.popitem(last=False)
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= most:
            raise Problem(
                f"more than {most} requests a minute; wait, or raise serve.requests_per_minute",
                status=429,
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                wait=math.ceil(times[0] + 60 - now),
            )
        times.append(now)

    async def _read(self, scope: Message, receive: Receive) -> bytes:
        parts = []
        size, more = 0, scope["method"] == "POST"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem("the client disconnected", status=499, code="hung_up")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._params.body_bytes:
                self._refuse_large()
            more = message.get("more_body", False)
        return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then later messages, such as the client's disconnect."""
    waiting = [body]

    async def again() -> Message:
        return {"type": "http.request", "body": waiting.pop(), "more_body": False} if waiting else await receive()

    return again


async def refuse(problem: Problem, send: Send) -> None:
    """Send a refusal."""
    body = json.dumps(problem.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if problem.status in (429, 503):
        headers.append((b"retry-after", str(problem.wait).encode()))
    if problem.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
