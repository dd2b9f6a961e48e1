"""A client of Ollama's native chat API.

Pitfalls of this API: every option goes inside `options`; set the context explicitly, and have a longer prompt refused
instead of silently cut; switch thinking off; some models ignore the schema in `format`.
"""

import logging
import re
import threading
from dataclasses import replace
from functools import partial
from typing import Any

from instruct.core.errors import ServerError
from instruct.core.parsing import mapping
from instruct.servers.answers import objects_in, one_line
from instruct.servers.base import Reply, Request, ServerState
from instruct.servers.http import AgainError, Http
from instruct.servers.replies import key_of, reply_of
from instruct.servers.settings import CallParams, OllamaParams

KEEP_ALIVE = "10m"
LOGPROBS_SINCE = (0, 12, 11)
log = logging.getLogger(__name__)

SECTION = "servers.ollama"
DIGITS = 12  # of a digest, as `ollama list` shows it


class Ollama:
    """One model on one Ollama server."""

    def __init__(self, params: OllamaParams, calls: CallParams) -> None:
        self._params = params
        self._http = Http(params.url, calls, SECTION, headers={})
        self.workers = params.workers
        self._lock = threading.Lock()
        self._state: ServerState | None = None
        self._think: dict[str, Any] = {}
        self._loaded = False

    @property
    def identity(self) -> dict[str, str]:
        """Server, model, digest, context; version and quantisation too, unless a digest is pinned.

        Replies to a pinned digest may be in the cache, and then nobody needs the server, nor knows which version gave
        them. So the identity is the same with the server and without it.
        """
        about = {"server": "ollama", "model": self._params.model, "num_ctx": str(self._params.num_ctx)}
        if self._params.digest:
            return {**about, "digest": _short(self._params.digest)}
        state = self._look()
        if state.problem:
            raise ServerError(state.problem)
        found = {"digest": state.digest, "version": state.version, "quantization": state.quantization}
        return {**about, **found}

    def check(self, longest: Request | None = None) -> ServerState:
        """See `Server`; also compares the context with the one that the server really allocated."""
        with self._lock:
            self._state, self._loaded = None, False
        state = self._look()
        if state.problem:
            return state
        try:
            self._load()
            state = replace(state, **self._running())
            return replace(state, problem=state.problem or self._too_long(longest))
        except ServerError as error:
            return replace(state, problem=str(error))

    def key(self, request: Request) -> str:
        """See `Server`; a digest in the settings replaces that of the server. Without either, address and name do."""
        weights = _short(self.identity["digest"]) or f"{self._params.url.rstrip('/')} {self._params.model}"
        return key_of("ollama", weights, self._asked(request), request)

    def ask(self, request: Request) -> Reply:
        """One reply; the first one waits for the model to load."""
        self._load()
        if request.top_logprobs and not self._gives_logprobs():
            since = ".".join(map(str, LOGPROBS_SINCE))
            raise ServerError(f"{self._params.url}: gives no token probabilities; update Ollama to {since} or later")
        body = {"model": self._params.model, "stream": False, "keep_alive": KEEP_ALIVE, **self._think}
        return self._http.ask("/api/chat", {**body, **self._asked(request)}, partial(self._read, request))

    def close(self) -> None:
        """Nothing stays open; Ollama unloads the model by itself."""

    def _asked(self, request: Request) -> dict[str, Any]:
        """The fields of the body that decide the reply."""
        options: dict[str, Any] = {
            "num_ctx": self._params.num_ctx,
            "num_predict": request.max_tokens,
            "seed": request.seed + request.repeat,
            "temperature": request.temperature,
        }
        if request.temperature == 0:
            options["top_k"] = 1
        body: dict[str, Any] = {
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "options": options,
            "truncate": False,
            "shift": False,
        }
        if request.schema is not None:
            body["format"] = dict(request.schema)
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return body

    def _read(self, request: Request, value: dict[str, Any]) -> Reply:
        if value.get("done") is not True:
            raise AgainError("ended its answer too early (no done: true)")
        message, tokens = mapping(value.get("message")), value.get("prompt_eval_count")
        reply = reply_of(
            request,
            message.get("content"),
            value.get("done_reason", "stop"),
            tokens,
            thought=bool(message.get("thinking")),
            logprobs=value.get("logprobs"),
        )
        # Servers without `truncate` and `shift` silently cut the prompt's start.
        if tokens == self._params.num_ctx // 2 + 2:
            cut = f"the prompt was probably cut to half of the context; raise {SECTION}.num_ctx"
            return replace(reply, problem=cut)
        return reply

    def _look(self) -> ServerState:
        """Version, model and digest, once."""
        with self._lock:
            if self._state is None:
                self._state = self._find()
            return self._state

    def _find(self) -> ServerState:
        state = ServerState(where=self._params.url, model=self._params.model)
        try:
            version = one_line(self._http.get("/api/version", retries=1).get("version", "unknown"))
            state = replace(state, reachable=True, version=version)
            models = objects_in(self._http.get("/api/tags").get("models"))
            entry = self._entry(models)
            if entry is None:
                there = ", ".join(sorted(one_line(one.get("name")) for one in models)[:20]) or "none"
                pull = f"ollama pull {state.model}"
                lacks = f"{state.where}: the model {state.model} is not there (there: {there})"
                return replace(state, problem=f"{lacks}; run `{pull}` or change {SECTION}.model", command=pull)
            shown = self._http.post("/api/show", {"model": state.model})
        except ServerError as error:
            start = "" if state.reachable else "ollama serve"
            offer = f"; start it with `{start}`" if start else ""
            return replace(state, problem=f"{error}{offer}", command=start)
        details = mapping(entry.get("details"))
        self._think = _least_thinking(shown.get("capabilities"), str(details.get("family", "")))
        state = replace(
            state,
            digest=one_line(entry.get("digest", "")),
            quantization=one_line(details.get("quantization_level", "")),
            context=_trained_context(shown.get("model_info")),
        )
        model = f"{state.model} {state.quantization}".strip()
        log.info("%s: Ollama %s, %s", state.where, state.version, model)
        return replace(state, problem=self._mismatch(state))

    def _entry(self, models: list[dict[str, Any]]) -> dict[str, Any] | None:
        name = self._params.model
        wanted = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        return next((one for one in models if wanted in (one.get("name"), one.get("model"))), None)

    def _mismatch(self, state: ServerState) -> str:
        """How the server's model differs from the settings."""
        pinned = self._params.digest.removeprefix("sha256:")
        if pinned and not state.digest.removeprefix("sha256:").startswith(pinned):
            return (
                f"{state.where}: {state.model} has the digest {state.digest[:DIGITS]}, not {pinned[:DIGITS]} as "
                f"{SECTION}.digest says; pull those weights again, or change the digest"
            )
        if 0 < state.context < self._params.num_ctx:
            return (
                f"{state.where}: {state.model} was trained for {state.context} tokens; lower {SECTION}.num_ctx from "
                f"{self._params.num_ctx}"
            )
        return ""

    def _load(self) -> None:
        """Load the model with the context that it will need; a call without messages does nothing else."""
        state = self._look()
        if state.problem:
            raise ServerError(state.problem)
        with self._lock:
            if not self._loaded:
                options = {"num_ctx": self._params.num_ctx}
                body = {"model": self._params.model, "messages": [], "stream": False, "keep_alive": KEEP_ALIVE}
                self._http.post("/api/chat", {**body, "options": options})
                self._loaded = True

    def _running(self) -> dict[str, Any]:
        """The context that the server really allocated, and the problem if it is too small."""
        entry = self._entry(objects_in(self._http.get("/api/ps").get("models"))) or {}
        context = entry.get("context_length")
        if type(context) is not int or context <= 0:
            return {}
        problem = (
            f"{self._params.url}: gives {context} tokens of context, not the {self._params.num_ctx} of "
            f"{SECTION}.num_ctx; lower it or give the server more memory"
        )
        return {"context": context, "problem": problem if context < self._params.num_ctx else ""}

    def _too_long(self, longest: Request | None) -> str:
        if longest is None:
            return ""
        reply = self.ask(replace(longest, max_tokens=1, schema=None, top_logprobs=0))
        if not reply.answered or (reply.problem and not reply.stop):
            return f"the longest prompt: {reply.problem}"
        needed = reply.prompt_tokens + longest.max_tokens
        if needed <= self._params.num_ctx:
            return ""
        return f"the longest prompt and its reply need {needed} tokens; raise {SECTION}.num_ctx"

    def _gives_logprobs(self) -> bool:
        """By its version; one that is not a number, such as that of a private build, is believed."""
        parts = self._look().version.split("-")[0].split(".")
        return not all(re.fullmatch("[0-9]{1,9}", part) for part in parts) or tuple(map(int, parts)) >= LOGPROBS_SINCE


def _short(digest: str) -> str:
    """A digest as `ollama list` shows it, so that the same weights have the same name however they are pinned."""
    return digest.removeprefix("sha256:")[:DIGITS]


def _least_thinking(capabilities: Any, family: str) -> dict[str, Any]:
    """Thinking would use up `num_predict`; only gpt-oss cannot switch it off."""
    if not isinstance(capabilities, list) or "thinking" not in capabilities:
        return {}
    return {"think": "low" if family == "gptoss" else False}


def _trained_context(info: Any) -> int:
    """`model_info` names it by architecture: llama.context_length and so on."""
    return next(
        (value for name, value in mapping(info).items() if name.endswith(".context_length") and type(value) is int), 0
    )
