"""Answers in OpenAI's form: whole, and in pieces for a stream."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from typing import Any

from instruct.generation.rows import Score
from instruct.serving.asking import Asked, Choice, told
from instruct.serving.problems import Problem
from instruct.text.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


class Shape:
    """The fields that all answers to one request share; `chat` or completion."""

    def __init__(self, asked: Asked, *, chat: bool, best: int | None) -> None:
        self._asked, self._chat, self._best = asked, chat, best
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._common = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.system.name,
            "system_fingerprint": asked.system.digest,
        }
        self._kind = kind
        self._lengths: dict[int, int] = {}  # of the tokens that a stream has scored, in characters, by choice

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._choice(one) for one in self._asked.choices]
        return {**self._common, "object": self._kind, "choices": choices, "usage": self._asked.usage}

    def _choice(self, one: Choice) -> dict[str, Any]:
        common = {"index": one.index, "finish_reason": one.reason, **self._applied(one)}
        if self._chat:
            return {**common, "message": {"role": "assistant", "content": one.text}, "logprobs": self._chat_scores(one)}
        text = one.prompt + one.text if one.echo else one.text
        return {**common, "text": text, "logprobs": self._completion_scores(one)}

    def _applied(self, one: Choice) -> dict[str, Any]:
        return {"policy": told(one.policy.applied)} if one.policy.applied else {}

    def _chat_scores(self, one: Choice, new: Sequence[Score] | None = None) -> dict[str, Any] | None:
        if self._best is None:
            return None
        scores = one.scores if new is None else new
        return {"content": [_chat_score(self._asked.system.tokenizer, score) for score in scores], "refusal": None}

    def _completion_scores(self, one: Choice) -> dict[str, Any] | None:
        if self._best is None:
            return None
        first = one.ids[0] if one.echo else None
        scores = [*one.prompt_scores, *one.scores] if one.echo else one.scores
        return completion_scores(self._asked.system.tokenizer, scores, first=first)

    def _next_scores(self, one: Choice, scores: Sequence[Score], first: int | None) -> dict[str, Any] | None:
        """The scores of a stream's next piece; their offsets go on from the piece before."""
        if self._best is None or (first is None and not scores):
            return None
        start = self._lengths.get(one.index, 0)
        told = completion_scores(self._asked.system.tokenizer, scores, first=first, start=start)
        self._lengths[one.index] = start + sum(map(len, told["tokens"]))
        return told

    @property
    def openings(self) -> int:
        """How many pieces of a stream come before the first token."""
        return sum(self._chat or one.echo for one in self._asked.choices)

    async def pieces(self, *, usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events, ended by `[DONE]`; an error becomes an event."""
        common = {**self._common, "object": "chat.completion.chunk" if self._chat else self._kind}
        if usage:
            common["usage"] = None
        try:
            for one in self._asked.choices:
                if self._chat:
                    yield event({**common, "choices": [self._piece(one, {"role": "assistant", "content": ""}, ())]})
                elif one.echo and self._best is None:
                    yield event({**common, "choices": [self._piece(one, one.prompt, ())]})
            async for one, text, news in self._asked.news():
                if one.echo and self._best is not None and one.index not in self._lengths:
                    scores = [*one.prompt_scores, *news.scores]  # the prompt waits for its scores, the first news
                    yield event({**common, "choices": [self._piece(one, one.prompt + text, scores, first=one.ids[0])]})
                elif text or news.scores or one.reason:
                    said: Any = ({"content": text} if text else {}) if self._chat else text
                    yield event({**common, "choices": [self._piece(one, said, news.scores)]})
        except Problem as problem:
            yield event(problem.body())
            return
        if usage:
            yield event({**common, "choices": [], "usage": self._asked.usage})
        yield DONE

    def _piece(self, one: Choice, said: Any, scores: Sequence[Score], first: int | None = None) -> dict[str, Any]:
        ended = {**self._applied(one)} if one.reason else {}
        piece = {"index": one.index, "finish_reason": one.reason, **ended}
        if self._chat:
            return {**piece, "delta": said, "logprobs": self._chat_scores(one, scores) if scores else None}
        return {**piece, "text": said, "logprobs": self._next_scores(one, scores, first)}


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _named(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    spelled = tokenizer.encoding.decode_single_token_bytes(token)
    return {"token": spelled.decode(errors="replace"), "logprob": logprob, "bytes": list(spelled)}


def _chat_score(tokenizer: Tokenizer, score: Score) -> dict[str, Any]:
    best = [_named(tokenizer, token, logprob) for token, logprob in score.best]
    return {**_named(tokenizer, score.token, score.logprob), "top_logprobs": best}


def completion_scores(
    tokenizer: Tokenizer, scores: Sequence[Score], *, first: int | None, start: int = 0
) -> dict[str, Any]:
    """The old form: four lists of the same length; the `first` token of a prompt has no probability.

    The offsets count from `start`.
    """
    tokens = ([] if first is None else [first]) + [score.token for score in scores]
    spelled = [tokenizer.decode([token]) for token in tokens]
    unknown: list[None] = [] if first is None else [None]
    # Tokens with the same spelling (parts of characters) share a name; the most likely one keeps it.
    best = [
        {
            **{tokenizer.decode([token]): logprob for token, logprob in reversed(score.best)},
            tokenizer.decode([score.token]): score.logprob,
        }
        for score in scores
    ]
    return {
        "tokens": spelled,
        "token_logprobs": [*unknown, *(score.logprob for score in scores)],
        "top_logprobs": [*unknown, *best],
        "text_offset": list(accumulate(map(len, spelled), initial=start))[:-1],
    }
