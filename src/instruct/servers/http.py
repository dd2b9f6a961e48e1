"""One JSON call over HTTP, made as often as it is worth making.

Tried again: broken connections, 429 and 5xx, and an error or an early end inside a 200, which are a 500 and a broken
connection that came too late for the status. Not tried again: silence (the server may still be at work on the first
request), anything that the server refuses, anything that is no JSON. There is no proxy to this machine, and no
redirect, which could carry the key elsewhere.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
    TimeoutError,
)

from instruct.core.errors import ServerError
from instruct.servers.answers import advice_on, json_object, kind_of, one_line, reason_in, retry_after
from instruct.servers.base import Reply
from instruct.servers.settings import CallParams

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BYTES = 8_000_000  # of one answer
LONGEST_PAUSE_S = 30.0  # of our own choice
LONGEST_WAIT_S = 600.0  # that a server may ask for by Retry-After
TOLD_S = 2.0  # a wait of so long is told
REFUSED = frozenset({400, 413, 422})  # this one request; other requests may be fine


class FailedError(ServerError):
    """This one request failed, for good, in so many attempts."""

    attempts = 1


class RefusedError(FailedError):
    """The server refuses this one request, whatever happens to others."""


class UnansweredError(FailedError):
    """No usable answer."""


class NotFoundError(ServerError):
    """The address is not there, or the model."""


class AgainError(Exception):
    """A failure that another attempt may not meet; `wait` is how many seconds the server asked for."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class Http:
    """Calls below one address, from any number of threads; `section` of params.yaml is named in messages."""

    def __init__(
        self, url: str, calls: CallParams, section: str, *, workers: int, headers: Mapping[str, str], secret: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self._calls, self._section, self._secret = calls, section, secret
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        self._manager = _manager(self.url, workers)
        self._timeout = urllib3.Timeout(connect=calls.connect, read=min(calls.read, calls.total))
        self._lock = threading.Lock()
        self._closed_until = 0.0

    def get(self, path: str, *, retries: int | None = None) -> dict[str, Any]:
        """The JSON object at `path`."""
        return self._call("GET", path, None, _as_it_is, retries)[0]

    def post(self, path: str, body: Any, *, retries: int | None = None) -> dict[str, Any]:
        """The JSON object that answers `body`."""
        return self._call("POST", path, body, _as_it_is, retries)[0]

    def ask(self, path: str, body: Any, read: Callable[[dict[str, Any]], Reply]) -> Reply:
        """The reply that `read` makes of the answer, or one with a problem; `read` may raise AgainError.

        Raises ServerError for what would befall every request.
        """
        try:
            reply, attempts = self._call("POST", path, body, read, None)
        except FailedError as error:
            answered = isinstance(error, RefusedError)
            return Reply(text="", problem=str(error), answered=answered, attempts=error.attempts)
        return replace(reply, attempts=attempts)

    def close(self) -> None:
        """Close all connections."""
        self._manager.clear()

    def _call(
        self, method: str, path: str, body: Any, read: Callable[[dict[str, Any]], T], retries: int | None
    ) -> tuple[T, int]:
        """What `read` makes of the answer, and how many attempts it took."""
        url = self.url + path
        data = None if body is None else json.dumps(body).encode()
        attempts = 1 + (self._calls.retries if retries is None else retries)
        problem = ""
        for attempt in range(1, attempts + 1):
            self._wait_until_open()
            try:
                return read(self._value(url, *self._exchange(method, url, data))), attempt
            except FailedError as error:
                error.attempts = attempt
                raise
            except AgainError as error:
                problem = self._clean(str(error))
                if attempt < attempts:
                    self._pause(attempt, error.wait, f"{url} {problem}")
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        failure = UnansweredError(f"{url} {problem}{tried}; see {self._section}.url and the log of the server")
        failure.attempts = attempts
        raise failure

    def _exchange(self, method: str, url: str, data: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one attempt."""
        deadline = time.monotonic() + self._calls.total
        try:
            response = self._manager.urlopen(
                method, url, body=data, headers=self._headers, timeout=self._timeout, retries=False, redirect=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
            try:
                return response.status, response.headers, self._body(url, response, deadline)
            except BaseException:
                response.close()  # what is left of the answer is of no use
                raise
            finally:
                response.release_conn()  # also after close, which alone does not give the connection's place back
        except ReadTimeoutError:
            raise self._too_slow(url, "nothing", "read", self._calls.read) from None
        except SSLError as error:
            raise ServerError(f"{url} cannot be trusted ({one_line(error)}); see its certificate") from None
        except (NewConnectionError, NameResolutionError, ProxyError, TimeoutError) as error:
            raise AgainError(f"cannot be reached ({kind_of(error)}); is the server running?") from None
        except ProtocolError as error:
            raise AgainError(f"broke off the connection ({kind_of(error)})") from None
        except HTTPError as error:
            raise UnansweredError(f"{url} answers what is not HTTP ({kind_of(error)})") from None

    def _body(self, url: str, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """All bytes of an answer that comes in time and is not endless."""
        parts, size = [], 0
        while part := response.read1(65_536, decode_content=False):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise UnansweredError(f"{url} answers more than {MAX_BYTES // 1_000_000} MB; is this the server?")
            if time.monotonic() > deadline:
                raise self._too_slow(url, "no whole answer", "total", self._calls.total)
        return b"".join(parts)

    def _value(self, url: str, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """The JSON object of a good answer."""
        value = json_object(body)
        error = value.get("error") if value else None
        reason = self._clean(reason_in(error, body))
        if status == 429 or status >= 500:
            raise self._again(f"answers {status} ({reason})", headers)
        if status in REFUSED:
            raise RefusedError(f"{url} answers {status} ({reason}); change {self._section} or the request")
        if status != 200:
            kind = NotFoundError if status == 404 else ServerError
            raise kind(f"{url} answers {status} ({reason}); {advice_on(status)} or change {self._section}")
        if error:
            raise self._inner_error(url, error, reason)
        if value is None and body.lstrip()[:1] in (b"{", b""):
            raise AgainError("ended its answer too early")
        if value is None:
            raise UnansweredError(f"{url} answers no JSON object ({reason}); is this the right server?")
        return value

    def _inner_error(self, url: str, error: Any, reason: str) -> Exception:
        """An error inside a 200 has a status too, if it says so."""
        code = error.get("code") if isinstance(error, dict) else None
        if isinstance(code, int) and 400 <= code < 500 and code != 429:
            return RefusedError(f"{url} answers the error {code} ({reason}); change {self._section} or the request")
        return AgainError(f"answers an error ({reason})")

    def _again(self, problem: str, headers: Mapping[str, str]) -> Exception:
        wait = retry_after(headers.get("Retry-After", ""))
        if wait > LONGEST_WAIT_S:
            return UnansweredError(f"{self.url} {problem} and asks to wait {wait:.0f} s; run this again later")
        return AgainError(problem, wait)

    def _too_slow(self, url: str, what: str, setting: str, seconds: float) -> UnansweredError:
        return UnansweredError(
            f"{url}: {what} within {seconds:g} s; raise servers.calls.{setting} or ask for less at once"
        )

    def _pause(self, attempt: int, wait: float, problem: str) -> None:
        """Wait before the next attempt, the longer the more there were; Retry-After holds for all threads."""
        most = wait or min(self._calls.backoff * 2 ** (attempt - 1), LONGEST_PAUSE_S)
        if most >= TOLD_S:
            log.info("%s; waits %.0f s before attempt %d", problem, most, attempt + 1)
        if wait:
            with self._lock:
                self._closed_until = max(self._closed_until, time.monotonic() + wait)
        else:
            time.sleep(most * random.uniform(0.5, 1.0))  # so that many workers do not come back at once

    def _wait_until_open(self) -> None:
        while (left := self._closed_until - time.monotonic()) > 0:
            time.sleep(left)

    def _clean(self, text: str) -> str:
        """Servers repeat the key in their messages."""
        return text.replace(self._secret, "***") if self._secret else text


def is_loopback(host: str) -> bool:
    """Whether an address's host is this machine."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _manager(url: str, workers: int) -> urllib3.PoolManager:
    """Connections for so many workers, through the proxy of the environment where the server is elsewhere."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = None if is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)
    if proxy:
        return urllib3.ProxyManager(proxy, num_pools=2, maxsize=workers)
    return urllib3.PoolManager(num_pools=2, maxsize=workers)


def _as_it_is(value: dict[str, Any]) -> dict[str, Any]:
    return value
