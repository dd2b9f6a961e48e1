"""Settings of servers for tests: no time is lost on waiting."""

from instruct.servers.base import Request
from instruct.servers.settings import CallParams, LlamaCppParams, OllamaParams, OpenAIParams

INF = float("inf")
BAD_NUMBERS = [float("nan"), INF, -INF, 1e5, 0.5, 10**400, -(10**400), 2**70]  # none is a logarithm of a probability
BAD_COUNTS = [float("nan"), INF, -INF, 2**70, 2**31, -1, -0.5, 1e300, 10**400]
SCORE = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 100}},
    "required": ["score"],
}


def calls(**fields) -> CallParams:
    return CallParams(**{"connect": 5.0, "read": 5.0, "total": 10.0, "retries": 2, "backoff": 0.0, **fields})


def ollama_params(url: str, **fields) -> OllamaParams:
    return OllamaParams(**{"url": url, "model": "llama3", "num_ctx": 4096, "workers": 1, "digest": "", **fields})


def openai_params(url: str, **fields) -> OpenAIParams:
    defaults = {
        "model": "judge",
        "key_variable": "TEST_KEY",
        "schema": "json_schema",
        "workers": 1,
        "body": {},
        "digest": "",
    }
    return OpenAIParams(**{"url": url, **defaults, **fields})


def llamacpp_params(gguf: str, **fields) -> LlamaCppParams:
    return LlamaCppParams(**{"gguf": gguf, "num_ctx": 512, "workers": 1, "threads": 1, "digest": "", **fields})


def question(text: str = "How good is it?", **fields) -> Request:
    return Request(messages=(("user", text),), **fields)
