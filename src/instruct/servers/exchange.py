"""One HTTP exchange on its own connection, finished before a deadline.

A connection is never reused: anything a server sends after its answer is lost with the connection and cannot be taken
for the next answer. The deadline covers the proxy's answer, TLS, interim answers, headers, body and trailers, even if
they arrive byte by byte.
Requests to this machine use no proxy, and redirects are not followed, because they could leak the key.
"""

import io
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPS_PORT, HTTPConnection, HTTPResponse, IncompleteRead
from socket import socket
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from instruct.core.errors import ServerError
from instruct.servers.settings import CallParams

MAX_BYTES = 8_000_000  # of one answer


class UnreachableError(Exception):
    """The connection failed; its cause says why."""


class TooSlowError(Exception):
    """The server took longer than a setting of `servers.calls` allows, which `setting` names."""

    def __init__(self, setting: str) -> None:
        super().__init__(setting)
        self.setting = setting


class TooLongError(Exception):
    """The answer has more than MAX_BYTES."""


class Exchanges:
    """Exchanges with one server, from any number of threads."""

    def __init__(self, url: str, calls: CallParams) -> None:
        self._calls = calls
        self._trust = ssl.create_default_context() if url.startswith("https:") else None
        self._proxy = _proxy_to(urlsplit(url))
        self._login = _login_of(self._proxy) if self._proxy else {}

    def run(self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        """Status, headers and body of the answer.

        Raises the errors above, and OSError and HTTPException if the connection breaks or is not HTTP.
        """
        deadline = time.monotonic() + self._calls.total
        connection, target, login = self._connection(url, deadline)
        headers = {**headers, **login, "Connection": "close"}
        try:
            _connect(connection, deadline)
            connection.sock.settimeout(self._calls.total)
            # A server may refuse a long request before it has read all of it; its answer can still be read.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body=data, headers=headers)
            response = _final(_Timed(connection.sock, self._calls.read, deadline), method)
            return response.status, response.headers, _body(response)
        finally:
            connection.close()

    def _connection(self, url: str, deadline: float) -> tuple[HTTPConnection, str, Mapping[str, str]]:
        """A connection that is not open yet, the request's path, and its headers for the proxy."""
        parts = urlsplit(url)
        there = _place(parts)
        path = f"{parts.path or '/'}"
        timeout = min(self._calls.connect, self._calls.total)
        host, port = _place(self._proxy) if self._proxy else there
        if self._trust:
            secure = _Secure((host, port), timeout, deadline, self._trust, there[0])
            if self._proxy:
                secure.set_tunnel(*there, headers=self._login)
            return secure, path, {}
        return HTTPConnection(host, port, timeout=timeout), url if self._proxy else path, self._login


class _Secure(HTTPConnection):
    """A connection with TLS to `name`, whose proxy and handshake must answer before the deadline too."""

    default_port = HTTPS_PORT

    def __init__(
        self, place: tuple[str, int], timeout: float, deadline: float, trust: ssl.SSLContext, name: str
    ) -> None:
        super().__init__(*place, timeout=timeout)
        self._deadline, self._trust, self._name = deadline, trust, name

        class OfProxy(HTTPResponse):
            """The proxy's answer to CONNECT."""

            def __init__(self, sock: socket, **more: Any) -> None:
                super().__init__(cast(socket, _Timed(sock, timeout, deadline)), **more)

        self.response_class = OfProxy

    def connect(self) -> None:
        super().connect()
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TooSlowError("total")
        self.sock.settimeout(min(cast(float, self.timeout), left))  # for the whole handshake
        self.sock = self._trust.wrap_socket(self.sock, server_hostname=self._name)


class _Reader(io.BufferedReader):
    def close(self) -> None:
        """A response that leaves the stream open when it is closed: more may follow an interim one."""


class _Timed(io.RawIOBase):
    """The bytes of a socket, each before the deadline and none after more than `read` seconds of silence."""

    def __init__(self, sock: socket, read: float, deadline: float) -> None:
        self._sock, self._read, self._deadline = sock, read, deadline
        self._reader = _Reader(self)

    def makefile(self, *_: Any) -> io.BufferedIOBase:
        """The file that HTTPResponse reads; always the same one, so that no buffered byte is lost."""
        return self._reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TooSlowError("total")
        self._sock.settimeout(min(self._read, left))
        try:
            return self._sock.recv_into(buffer)
        except TimeoutError:
            raise TooSlowError("read" if self._read < left else "total") from None


def _connect(connection: HTTPConnection, deadline: float) -> None:
    try:
        connection.connect()
    except (TooSlowError, TimeoutError):
        if time.monotonic() >= deadline:
            raise TooSlowError("total") from None
        raise UnreachableError from TimeoutError("timed out")
    except (OSError, UnicodeError) as error:
        raise UnreachableError from error


def _final(stream: _Timed, method: str) -> HTTPResponse:
    """The final answer, after any interim ones (100 Continue, 103 Early Hints)."""
    while True:
        response = HTTPResponse(cast(socket, stream), method=method)
        response.begin()
        if response.status >= 200:
            return response


def _body(response: HTTPResponse) -> bytes:
    """All bytes of a complete answer of bounded size."""
    parts, size = [], 0
    while part := response.read(65_536):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise TooLongError
    if response.length:
        raise IncompleteRead(b"", response.length)
    return b"".join(parts)


def _proxy_to(parts: SplitResult) -> SplitResult | None:
    """The proxy that the environment names, unless the server is on this machine."""
    host, port = _place(parts)
    direct = is_loopback(host) or proxy_bypass(host) or proxy_bypass(f"{host}:{port}")
    proxy = None if direct else getproxies().get(parts.scheme)
    if not proxy:
        return None
    found = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if found.scheme != "http" or not found.hostname:
        raise ServerError(f"${parts.scheme}_proxy: must be an address like http://proxy:3128; correct or unset it")
    return found


def _login_of(proxy: SplitResult) -> dict[str, str]:
    """The header with user and password, if the proxy's address has them."""
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}


def _place(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Whether an address's host is this machine; a client that connects to 0.0.0.0 or :: reaches it too."""
    return host in ("localhost", "::1", "0.0.0.0", "::") or host.startswith("127.")
