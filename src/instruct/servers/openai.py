"""A client of any server with OpenAI's chat API: vLLM, llama.cpp, LM Studio, OpenAI itself."""

import json
import logging
import os
import threading
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

from instruct.core.errors import ServerError
from instruct.core.parsing import mapping
from instruct.servers.answers import objects_in, one_line
from instruct.servers.base import Reply, Request, ServerState
from instruct.servers.http import AgainError, Http, HttpError
from instruct.servers.replies import key_of, reply_of
from instruct.servers.secret import Mask
from instruct.servers.settings import CallParams, OpenAIParams

log = logging.getLogger(__name__)

SECTION = "servers.openai"
LONGEST_BODY = 500  # characters of `body` in an identity; a longer one is named by its sha256
WARM_UP = Request(messages=(("user", "Hello"),), max_tokens=8)


class OpenAI:
    """One model on one OpenAI-compatible server."""

    def __init__(self, params: OpenAIParams, calls: CallParams, section: str = SECTION) -> None:
        self._params, self._section = params, section
        key = os.environ.get(params.key_variable, "").strip() if params.key_variable else ""
        if not key.isascii() or any(not sign.isprintable() for sign in key):
            raise ServerError(f"${params.key_variable}: holds signs that no key has; set it again")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = Http(params.url, calls, section, headers=headers, secret=key)
        self._mask = Mask(key)
        self.workers = params.workers
        self._lock = threading.Lock()
        self._first_model = ""

    @property
    def identity(self) -> dict[str, str]:
        """The model's name, the settings' name for its weights, and how requests differ by `schema` and `body`.

        A temperature in `body` is stated as such, since it overrides that of the requests.
        """
        params = self._params
        body = json.dumps(self._mask.value(params.body), sort_keys=True)
        if len(body) > LONGEST_BODY:
            body = f"sha256:{sha256(body.encode()).hexdigest()}"
        about = {"server": "openai", "model": params.model, "digest": params.digest}
        about |= {"schema": params.schema, "body": body}
        if "temperature" in params.body:
            about["temperature"] = _stated(params.body["temperature"])
        return about

    def check(self, longest: Request | None = None, context: int = 0) -> ServerState:
        """See `Server`; `context` is known to who started the server, others may list it with their models."""
        state = ServerState(where=self._params.url, model=self._params.model, digest=self._params.digest)
        try:
            models, note = self._models()
            entry = _listed(models, state.model)
            state = replace(state, reachable=True, note=note, context=context or _context(entry))
            if models and entry is None:
                there = ", ".join(sorted(one_line(one.get("id")) for one in models)[:20])
                lacks = f"{state.where}: the model {state.model} is not there (there: {there})"
                return replace(state, problem=f"{lacks}; change {self._section}.model")
            reply = self.ask(replace(longest or WARM_UP, max_tokens=8, schema=None, top_logprobs=0))
        except ServerError as error:
            return replace(state, problem=str(error))
        if not reply.answered or (reply.problem and not reply.stop):
            return replace(state, problem=f"{'the longest prompt: ' if longest else ''}{reply.problem}")
        needed = reply.prompt_tokens + longest.max_tokens if longest else 0
        if 0 < state.context < needed:
            problem = f"the longest prompt and its reply need {needed} tokens, the server has {state.context}"
            return replace(state, problem=f"{problem}; give it more context or ask for less")
        return state

    def key(self, request: Request) -> str:
        """See `Server`; does not connect. The address is part of it unless the settings name the weights."""
        weights = self._params.digest or f"{self._params.url.rstrip('/')} {self._params.model}"
        return key_of("openai", weights, chat_body(self._params, request), request)

    def ask(self, request: Request) -> Reply:
        """See `Server`; a reply of another model than the one that answered first is a failed one."""
        return self._http.ask("/chat/completions", chat_body(self._params, request), partial(self._read, request))

    def close(self) -> None:
        """Nothing stays open."""

    def _read(self, request: Request, value: dict[str, Any]) -> Reply:
        reply, name = _read(request, value), value.get("model")
        first = self._first(one_line(name)) if name and isinstance(name, str) else ""
        if reply.problem or not first or one_line(name) == first:
            return reply
        problem = f"the model {one_line(name)} answered, not {first} as at first; see the log of the server"
        return replace(reply, problem=problem)

    def _first(self, name: str) -> str:
        """The model that answered first, now if none did. One alias throughout is normal and only logged."""
        with self._lock:
            if not self._first_model:
                self._first_model = name
                if name != self._params.model:
                    log.info("%s: %s answers as %s", self._params.url, self._params.model, name)
            return self._first_model

    def _models(self) -> tuple[list[dict[str, Any]], str]:
        """The server's list of models, and a note if it refuses; only a chat request shows whether the model works."""
        try:
            return objects_in(self._http.get("/models", retries=1).get("data")), ""
        except HttpError as error:
            if not error.reached:
                raise
            return [], f"the models cannot be listed: {error}"


def chat_body(params: OpenAIParams, request: Request) -> dict[str, Any]:
    """The body of one request."""
    body: dict[str, Any] = {
        "model": params.model,
        "messages": [{"role": role, "content": text} for role, text in request.messages],
        "stream": False,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed + request.repeat,
    }
    if request.schema is not None and params.schema == "json_schema":
        schema = {"name": "reply", "schema": dict(request.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.schema is not None and params.schema == "json_object":
        body["response_format"] = {"type": "json_object"}
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return {name: value for name, value in (body | params.body).items() if value is not None}


def _read(request: Request, value: dict[str, Any]) -> Reply:
    choice = (objects_in(value.get("choices")) or [{}])[0]
    message, usage, logprobs = (
        mapping(one) for one in (choice.get("message"), value.get("usage"), choice.get("logprobs"))
    )
    content = message.get("content")
    if not choice.get("finish_reason") and not content:
        raise AgainError("ended its answer too early (neither a text nor a finish_reason)")
    reply = reply_of(
        request,
        content,
        choice.get("finish_reason"),
        usage.get("prompt_tokens"),
        thought=bool(message.get("reasoning_content") or message.get("reasoning")),
        logprobs=logprobs.get("content"),
    )
    refused = message.get("refusal") or any(part.get("type") == "refusal" for part in objects_in(content))
    return replace(reply, problem="the model refuses to answer") if refused else reply


def _stated(temperature: Any) -> str:
    """A temperature as identities have it; null leaves it to the server."""
    if temperature is None:
        return "the server's"
    return f"{temperature:g}" if type(temperature) in (int, float) else json.dumps(temperature)


def _listed(models: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The entry of a model, which server or settings may call `models/NAME` or `OWNER/NAME`."""
    for same in (
        str.__eq__,
        lambda one, other: one.endswith(f"/{other}"),
        lambda one, other: other.endswith(f"/{one}"),
    ):
        for entry in models:
            if isinstance(entry.get("id"), str) and same(entry["id"], name):
                return entry
    return None


def _context(entry: dict[str, Any] | None) -> int:
    """The context of a model if the list has it, as in vLLM; else 0."""
    context = (entry or {}).get("max_model_len")
    return context if type(context) is int else 0
