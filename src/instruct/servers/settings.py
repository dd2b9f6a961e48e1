"""The settings of servers of language models."""

import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from instruct.core.params import require

ServerName = Literal["ollama", "openai", "llamacpp"]

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{12,64}")


@dataclass(frozen=True, kw_only=True)
class CallParams:
    """How long to wait, in seconds, and how often to try again.

    `connect` is for the connection, `read` for silence while the server thinks, `total` for one whole answer.
    Broken connections, cut or failed answers, 408, 425, 429 and 5xx (but 501 and 505) are tried again `retries` times,
    after `backoff`, twice that, and so on.
    """

    connect: float
    read: float
    total: float
    retries: int
    backoff: float

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            value = getattr(self, name)
            require(name, value, 0 < value <= 86_400, "above 0 and at most 86400 seconds")
        require("retries", self.retries, 0 <= self.retries <= 20, "from 0 to 20")
        require("backoff", self.backoff, 0 <= self.backoff <= 60, "from 0 to 60 seconds")


@dataclass(frozen=True, kw_only=True)
class OllamaParams:
    """An Ollama server. `workers` should not exceed its OLLAMA_NUM_PARALLEL.

    With `digest` (from `ollama list`) other weights under the same name are refused, and replies that are all in
    the cache need no server. Then results do not hold the server's version, which only the log tells.
    """

    url: str
    model: str
    num_ctx: int
    workers: int
    digest: str

    def __post_init__(self) -> None:
        _require_server(self.url, self.model, self.workers)
        require("num_ctx", self.num_ctx, self.num_ctx >= 256, "at least 256 tokens")
        _require_digest(self.digest)


@dataclass(frozen=True, kw_only=True)
class OpenAIParams:
    """Any OpenAI-compatible server; `url` ends before /chat/completions, so mostly with /v1.

    The key comes from the environment variable `key_variable`, if set, and is never written. `schema` is the way to ask
    the server for JSON. `body` overrides fields of each request; null removes one. `digest` is your name for the
    weights, because such servers report none: it identifies cached replies, otherwise `url` does.
    """

    url: str
    model: str
    key_variable: str
    schema: Literal["json_schema", "json_object", "none"]
    workers: int
    body: dict[str, Any]
    digest: str

    def __post_init__(self) -> None:
        _require_server(self.url, self.model, self.workers)
        plain = not self.key_variable or self.key_variable.isidentifier()
        require("key_variable", "no such name" if not plain else "", plain, "the name of a variable, never the key")


@dataclass(frozen=True, kw_only=True)
class LlamaCppParams:
    """llama.cpp inside this process (the extra `llamacpp`): `gguf` is a backbone's name or the path of a GGUF file.

    `num_ctx` is for each of the `workers` requests at once. One thread and one worker give the same bytes again. With
    `digest`, another file under the same name is refused.
    """

    gguf: str
    num_ctx: int
    workers: int
    threads: int
    digest: str

    def __post_init__(self) -> None:
        require("gguf", self.gguf, bool(self.gguf.strip()), "a backbone's name or the path of a GGUF file")
        require("num_ctx", self.num_ctx, self.num_ctx >= 256, "at least 256 tokens")
        require("workers", self.workers, 1 <= self.workers <= 64, "from 1 to 64")
        require("threads", self.threads, 1 <= self.threads <= 1024, "from 1 to 1024")
        _require_digest(self.digest)


@dataclass(frozen=True, kw_only=True)
class ServersParams:
    """The section `servers` of params.yaml. `cache` keeps replies, so that the same question is asked once."""

    cache: bool
    calls: CallParams
    ollama: OllamaParams
    openai: OpenAIParams
    llamacpp: LlamaCppParams


def is_address(url: str) -> bool:
    """Whether this is the address of a server, without a user, a query or a fragment in it."""
    try:
        parts = urlsplit(url)
        plain = not (parts.query or parts.fragment or parts.username or parts.password)
        plain = plain and parts.path.isascii() and url.isprintable() and " " not in url
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and plain
    except ValueError:
        return False


def _require_digest(digest: str) -> None:
    require("digest", digest, not digest or bool(_DIGEST.fullmatch(digest)), "12 to 64 hexadecimal digits")


def _require_server(url: str, model: str, workers: int) -> None:
    require("url", url, is_address(url), "an address like http://127.0.0.1:11434, without name, key or query")
    require("model", model, bool(model.strip()), "the tag of a model")
    require("workers", workers, 1 <= workers <= 256, "from 1 to 256")
