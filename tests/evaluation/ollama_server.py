"""A local server that keeps to the contract of Ollama's native API, field by field, and notes each breach of it."""

import json
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIGEST = "365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1"
CHAT_FIELDS = {
    "model": str,
    "messages": list,
    "stream": bool,
    "format": (str, dict),
    "options": dict,
    "keep_alive": (str, int),
    "tools": list,
    "think": (bool, str),
    "truncate": bool,
    "shift": bool,
    "logprobs": bool,
    "top_logprobs": int,
}
OPTIONS = {
    "num_ctx": int, "num_batch": int, "num_gpu": int, "main_gpu": int, "use_mmap": bool, "num_thread": int,
    "num_keep": int, "seed": int, "num_predict": int, "top_k": int, "top_p": float, "min_p": float,
    "typical_p": float, "repeat_last_n": int, "temperature": (int, float), "repeat_penalty": float,
    "presence_penalty": float, "frequency_penalty": float, "stop": list,
}  # fmt: skip

Answer = tuple[int, Any]  # status, and a body as JSON value or as bytes


@dataclass
class OllamaServer:
    """`model` is pulled; `scripted` answers go out first, then what a healthy server says."""

    model: str = "llama3:latest"
    family: str = "llama"
    capabilities: tuple[str, ...] = ("completion", "tools")
    version: str = "0.33.0"
    trained_context: int = 8192
    given_context: int = 0  # tokens that the runner really gets; 0: what the request asks for
    content: str = '{"score": 85}'
    changes: dict[str, Any] = field(default_factory=dict)
    scripted: deque[Answer] = field(default_factory=deque)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)  # that came with the requests
    url: str = ""

    def __enter__(self) -> "OllamaServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.answer, self.keys))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bodies(self, path: str) -> list[Any]:
        return [body for _, one, body in self.requests if one == path]

    @property
    def verdicts(self) -> list[Any]:
        """The bodies that asked for a verdict, so not those that only load the model."""
        return [body for body in self.bodies("/api/chat") if body["messages"]]

    def answer(self, method: str, path: str, raw: bytes) -> Answer:
        body = json.loads(raw) if raw else None
        self.requests.append((method, path, body))
        if self.scripted:
            return self.scripted.popleft()
        match method, path:
            case "GET", "/api/version":
                return 200, {"version": self.version}
            case "GET", "/api/tags":
                return 200, {"models": [self._entry()]}
            case "GET", "/api/ps":
                return 200, {"models": [self._running()]}
            case "POST", "/api/show":
                return self._show(body)
            case "POST", "/api/chat":
                return self._chat(body)
        return 404, b"404 page not found"

    def _entry(self) -> dict[str, Any]:
        details = {"family": self.family, "parameter_size": "8.0B", "quantization_level": "Q4_0", "format": "gguf"}
        when = "2026-08-21T10:00:00Z"
        entry = {"name": self.model, "model": self.model, "modified_at": when, "size": 4661224676, "details": details}
        return {**entry, "digest": DIGEST}

    def _running(self) -> dict[str, Any]:
        asked = [body["options"]["num_ctx"] for body in self.bodies("/api/chat")]
        context = self.given_context or (asked[-1] if asked else 4096)
        more = {"expires_at": "2026-08-21T10:10:00Z", "size_vram": 4661224676, "context_length": context}
        return {**self._entry(), **more}

    def _here(self, name: str) -> bool:
        return name in (self.model, self.model.removesuffix(":latest"))

    def _show(self, body: dict[str, Any]) -> Answer:
        if not self._here(body["model"]):
            return 404, {"error": f"model '{body['model']}' not found"}
        info = {"general.architecture": "llama", "llama.context_length": self.trained_context}
        return 200, {
            "template": "{{ .Prompt }}",
            "parameters": "",
            "model_info": info,
            "capabilities": list(self.capabilities),
        }

    def _chat(self, body: dict[str, Any]) -> Answer:
        self._check(body)
        if not self._here(body["model"]):
            return 404, {"error": f"model '{body['model']}' not found"}
        if body.get("top_logprobs", 0) > 20:
            return 400, {"error": "top_logprobs must be between 0 and 20"}
        thinks = "thinking" in self.capabilities
        if body.get("think") and not thinks:
            return 400, {"error": f'"{body["model"]}" does not support thinking'}
        reply = {"model": body["model"], "created_at": "2026-08-21T10:00:00Z", "done": True}
        if not body["messages"]:
            return 200, {**reply, "message": {"role": "assistant", "content": ""}, "done_reason": "load"}
        num_ctx = body.get("options", {}).get("num_ctx", 4096)
        prompt_tokens = len(body["messages"][-1]["content"].split())
        if prompt_tokens > num_ctx:
            if body.get("truncate", True) is False:
                return 400, {"error": "the input length exceeds the context length"}
            prompt_tokens = num_ctx // 2 + 2
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        reason = "stop"
        if thinks and body.get("think", True) is True:  # thoughts eat num_predict
            message, reason = {"role": "assistant", "content": "", "thinking": "Let me see. The task"}, "length"
        counts = {"prompt_eval_count": prompt_tokens, "prompt_eval_duration": 1000, "eval_count": 8}
        times = {"total_duration": 5000, "load_duration": 1000, "eval_duration": 2000}
        reply |= {"message": message, "done_reason": reason, **counts, **times}
        if body.get("logprobs"):
            tops = [{"token": "85", "logprob": -0.25}, {"token": "9", "logprob": -1.5}][: body.get("top_logprobs", 0)]
            reply["logprobs"] = [{"token": "85", "logprob": -0.25, "bytes": [56, 53], "top_logprobs": tops}]
        if body.get("stream", True):
            lines = [{**reply, "done": False}, {**reply, "message": {"role": "assistant", "content": ""}}]
            return 200, "\n".join(json.dumps(line) for line in lines).encode()
        return 200, {**reply, **self.changes}

    def _check(self, body: dict[str, Any]) -> None:
        """Note fields that the API does not know (it ignores them without a word) and values of a wrong type."""
        for name, value in body.items():
            if name not in CHAT_FIELDS:
                self.breaches.append(f"{name} is no field of /api/chat")
            elif not isinstance(value, CHAT_FIELDS[name]):
                self.breaches.append(f"{name} is {value!r}")
        for name, value in body.get("options", {}).items():
            if name not in OPTIONS:
                self.breaches.append(f"{name} is no option")
            elif not isinstance(value, OPTIONS[name]) or (isinstance(value, bool) and OPTIONS[name] is not bool):
                self.breaches.append(f"option {name} is {value!r}")
        for name in ("model", "messages"):
            if name not in body:
                self.breaches.append(f"{name} is missing")
        for message in body["messages"]:
            if set(message) != {"role", "content"} or message["role"] not in ("system", "user", "assistant"):
                self.breaches.append(f"a message is {message!r}")


def _handler(answer: Callable[[str, str, bytes], Answer], keys: list[str | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # head and body in one packet
        decide = staticmethod(answer)

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            keys.append(self.headers.get("Authorization"))
            status, body = self.decide(self.command, self.path, raw)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            if 300 <= status < 400:
                self.send_header("Location", "/api/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked had enough
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
