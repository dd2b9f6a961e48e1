"""The routes: OpenAI's API, the ones that lm-eval needs, and the page with its feedback."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from instruct.core.shown import printable
from instruct.serving.answers import Shape
from instruct.serving.asking import Asked, Desk
from instruct.serving.feedback import Feedback, MineRequest, PreferenceRequest
from instruct.serving.guard import Message, Receive, Send
from instruct.serving.lanes import Post
from instruct.serving.loop import hand_out
from instruct.serving.messages import knows_turns, render_chat
from instruct.serving.metrics import Metrics
from instruct.serving.problems import Problem
from instruct.serving.requests import (
    FORMS,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    Sampling,
    TokenizeRequest,
)
from instruct.serving.systems import System
from instruct.text.encoding import Prompt
from instruct.text.prompts import as_text

# A page that loads or runs code from another site could leak the conversation.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(desk: Desk, metrics: Metrics, feedback: Feedback) -> FastAPI:
    """All routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        here = asyncio.get_running_loop()

        def post(posts: Sequence[Post]) -> None:
            here.call_soon_threadsafe(hand_out, posts)

        desk.engine.post = post
        yield

    app = FastAPI(title="instruct serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Problem, _tell_problem)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(HTTPException, _tell_http)
    _add_openai(app, desk, metrics)
    _add_tokenizer(app, desk)
    _add_page(app, desk, feedback)

    @app.get("/health")
    async def health() -> Response:
        alive = desk.engine.alive
        return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)

    @app.get("/metrics")
    async def counters() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _add_openai(app: FastAPI, desk: Desk, metrics: Metrics) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(desk, one) for one in desk.systems.values()]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return _described(desk, desk.system(name))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        asked = desk.chat(body)
        return await _answer(asked, body, Shape(asked, chat=True, best=body.best), request, metrics)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        asked = desk.complete(body)
        return await _answer(asked, body, Shape(asked, chat=False, best=body.logprobs), request, metrics)


def _described(desk: Desk, system: System) -> dict[str, Any]:
    return {
        "id": system.name,
        "object": "model",
        "created": 0,
        "owned_by": "instruct",
        "digest": system.digest,
        "max_model_len": desk.room(system),
    }


async def _answer(asked: Asked, body: Sampling, shape: Shape, request: Request, metrics: Metrics) -> Response:
    asked.begin()
    if body.stream:
        return Stream(asked, shape, metrics, usage=body.counts_usage)
    if not await _finished(_collect(asked, metrics), request, asked, metrics):
        raise Problem("the client disconnected", status=499, code="hung_up")
    _count(asked, metrics)
    return JSONResponse(shape.whole())


async def _collect(asked: Asked, metrics: Metrics) -> None:
    started, first = time.perf_counter(), True
    async for _ in asked.news():
        if first:
            metrics.first_token.labels(asked.system.name).observe(time.perf_counter() - started)
            first = False


def _count(asked: Asked, metrics: Metrics) -> None:
    usage = asked.usage
    metrics.prompt_tokens.labels(asked.system.name).inc(usage["prompt_tokens"])
    metrics.answer_tokens.labels(asked.system.name).inc(usage["completion_tokens"])
    for choice in asked.choices:
        for rule in choice.policy.applied:
            metrics.policy.labels(rule.name, rule.action).inc()


async def _finished(work: Awaitable[None], request: Request, asked: Asked, metrics: Metrics) -> bool:
    """Whether `work` ended before the client disconnected; else its slots are freed at once."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            metrics.hung_up.inc()
            return False
        await task
        return True
    finally:
        asked.cancel()
        task.cancel()
        left.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Stream(Response):
    """An answer piece by piece, with no buffer between engine and client."""

    def __init__(self, asked: Asked, shape: Shape, metrics: Metrics, *, usage: bool) -> None:
        self._asked, self._shape, self._metrics, self._usage = asked, shape, metrics, usage
        self.background = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send the pieces until they end or the client disconnects."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if await _finished(self._send_pieces(send), Request(dict(scope), receive), self._asked, self._metrics):
            _count(self._asked, self._metrics)

    async def _send_pieces(self, send: Send) -> None:
        started, count = time.perf_counter(), self._shape.openings
        pieces = self._shape.pieces(usage=self._usage)
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            count -= 1
            if count == -1:  # the first pieces only open the choices
                self._metrics.first_token.labels(self._asked.system.name).observe(time.perf_counter() - started)
        await send({"type": "http.response.body", "body": b""})


def _add_tokenizer(app: FastAPI, desk: Desk) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        system = desk.system(body.model) if body.model else next(iter(desk.systems.values()))
        if (body.prompt is None) == (body.messages is None):
            raise Problem("give prompt or messages", param="prompt")
        said = [one.said() for one in body.messages or ()]
        prompt: Prompt = body.prompt or ""
        if body.messages is not None:
            prompt = render_chat(system.template, system.template_name, said, body.input)
        begin = system.tokenizer.begin_ids
        ids = desk.encode(system, prompt, "prompt") if prompt or begin else []
        if isinstance(prompt, str) and body.add_special_tokens is False:
            ids = ids[len(begin) :]
        strings = body.return_token_strs or body.with_token_strs
        words = [system.tokenizer.decode([one]) for one in ids] if strings else None
        told = {} if isinstance(prompt, str) else {"prompt": as_text(prompt)}
        return {"count": len(ids), "max_model_len": desk.room(system), "tokens": ids, "token_strs": words, **told}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        system = desk.system(body.model) if body.model else next(iter(desk.systems.values()))
        ids = desk.encode(system, body.tokens, "tokens") if body.tokens else []
        return {"prompt": system.tokenizer.decode(ids)}

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        system = next(iter(desk.systems.values()))
        end = system.tokenizer.decode([system.tokenizer.eos_id])
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "bos_token": system.tokenizer.decode(system.tokenizer.begin_ids) or None,
            "pad_token": end,
            "vocab_size": system.tokenizer.vocab_size,
            "model_max_length": desk.room(system),
            "template": system.template_name,
            "stop": list(system.template.stop_strings),
            "logprobs": desk.policy is None,
            "turns": knows_turns(system.template),
        }


def _add_page(app: FastAPI, desk: Desk, feedback: Feedback) -> None:
    page = files("instruct.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/")
    async def show() -> Response:
        headers = {
            "Content-Security-Policy": PAGE_POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(page, headers=headers)

    # Not async: both wait for a lock on the file, and the server goes on meanwhile.
    @app.post("/preferences")
    def prefer(body: PreferenceRequest) -> dict[str, Any]:
        return feedback.prefer(body, desk.policy)

    @app.post("/mine")
    def mine(body: MineRequest) -> dict[str, Any]:
        return feedback.keep(body, desk.policy)


async def _tell_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return JSONResponse(
        problem.body(), problem.status, {"Retry-After": str(problem.wait)} if problem.status == 429 else None
    )


async def _tell_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    loc = first["loc"][1:]  # after "body"
    known = loc[:-1] if first["type"] == "extra_forbidden" else loc  # a name that a client sent may be any, or no text
    place = [printable(one)[:80] for one in (*(one for one in known if one not in FORMS), *loc[len(known) :])]
    if first["type"] == "json_invalid":
        problem = Problem(f"the body is not JSON: {first['ctx'].get('error', first['msg'])}", code="invalid_json")
    elif first["type"] == "extra_forbidden":
        problem = Problem(
            f"{'.'.join(place)} is not a parameter of this route; leave it out",
            param=place[-1],
            code="unknown_parameter",
        )
    elif not place:
        problem = Problem("the body must be a JSON object with the parameters of this route", code="invalid_value")
    else:
        problem = Problem(
            f"{'.'.join(place)}: {first['msg'].removeprefix('Value error, ')}", param=place[0], code="invalid_value"
        )
    return JSONResponse(problem.body(), problem.status)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code, code="http")
    return JSONResponse(problem.body(), problem.status)
