"""A web server that misbehaves on request, and a cache of the test's own."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from instruct.backbones import fetch

# Many chunks and a bit, each byte telling where it stands.
DATA = b"".join(number.to_bytes(4, "big") for number in range((3 * 2**20 + 4000) // 4))


class Server:
    """A web server with one file, which misbehaves as `script` says, one word a request, and well afterwards."""

    def __init__(self) -> None:
        self.files = {"/weights/model.safetensors": DATA}
        self.script: list[str] = []
        self.written = 0
        self.requests: list[tuple[str, str | None, int]] = []  # path, Range, bytes of the body that were sent
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/weights"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        word, _, value = (self.script.pop(0) if self.script else "well").partition(" ")
        span = handler.headers.get("Range")
        body = self.files.get(handler.path)
        status = 404 if body is None else 200
        body, headers = body or b"", {}
        if word == "status":
            status, body = int(value), b""
        elif span and status == 200 and word != "ignore-range":
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            status = 416 if start >= len(body) else 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:] if status == 206 else b""
        sent = body[: int(value)] if word == "cut" else body
        self.requests.append((handler.path, span, len(sent)))
        handler.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, text)
        try:
            handler.end_headers()
            for start in range(0, len(sent), 1 << 16):
                self.written += handler.wfile.write(sent[start : start + (1 << 16)])
        except OSError:  # the client has had enough
            handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSE_S", 0.001)
    running = Server()
    yield running
    running.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
