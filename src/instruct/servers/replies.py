"""Validates replies from a model, a cache or an exported file, and records their problem.

Numbers must be finite and in range, texts valid UTF-8 of bounded length, and the model must have ended by itself.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from math import inf, isfinite
from typing import Any

from instruct.servers.answers import one_line
from instruct.servers.base import Reply, Request, Token

LONGEST = 100_000  # characters, or tokens; longer text is not a valid reply to any of our requests
SHOWN = 20_000  # characters of it are kept
MOST_TOKENS = 2**31 - 1
MOST_LOGPROB = 1e-3  # of a probability of 1, within rounding error
# How servers say that the model ended by itself, or was cut off; any other reason is a problem.
ENDS = frozenset(
    {"stop", "stop_sequence", "stop_token", "eos", "eos_token", "end", "end_turn", "end_of_turn", "end_of_text"}
    | {"complete", "completed", "finished"}
)
CUTS = frozenset({"length", "max_length", "max_tokens", "max_new_tokens", "max_output_tokens", "model_length"})
# Thoughts in front of a text. Some templates begin them, so that the reply only ends them; that end must end its line,
# since a sentence may name the tag. Nothing is tried twice.
_REST = r"(?:(?!</?think(?:ing)?>).)*</think(?:ing)?>"
_THOUGHTS = re.compile(rf"\A(?:{_REST}[^\S\n]*(?:\n|\Z))?(?:\s*<think(?:ing)?>{_REST})*", re.I | re.S)
_TAG = re.compile(r"</?think(?:ing)?>", re.I)


def key_of(server: str, weights: str, asked: Mapping[str, Any], request: Request) -> str:
    """The sha256 of all that decides a reply; the same on every machine and in every version of Python."""
    parts = {"asked": asked, "repeat": request.repeat, "server": server, "weights": weights}
    if request.first_line:
        parts["first_line"] = True
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def reply_of(
    request: Request, content: Any, stop: Any, prompt_tokens: Any, *, thought: bool, logprobs: Any = None
) -> Reply:
    """The reply to a request from the parts of an answer, with its problem if it has one."""
    reply = Reply(
        text=text_in(content),
        stop=stop_in(stop),
        prompt_tokens=_count(prompt_tokens),
        logprobs=read_logprobs(logprobs) if request.top_logprobs else None,
    )
    if request.first_line and reply.stop == "length":
        reply = _cut_after_first_line(reply)
    problem = problem_of(reply, thought=thought)
    if not problem:
        return reply
    text = reply.text[:SHOWN] if len(reply.text) > LONGEST else reply.text
    return replace(reply, problem=problem, text=text, prompt_tokens=max(0, reply.prompt_tokens), logprobs=None)


def problem_of(reply: Reply, *, thought: bool = False) -> str:
    """Why a reply cannot be used; empty if it can."""
    if len(reply.text) > LONGEST:
        return f"the reply has {len(reply.text)} characters, of which the first {SHOWN} are kept"
    if reply.stop == "length":
        thoughts = " (thoughts count too; switch them off)" if thought else ""
        return f"the reply was cut off at its most tokens{thoughts}; raise max_tokens"
    if reply.stop not in ("", "stop"):
        return f"the reply ended by {reply.stop}, not by itself"
    if not reply.text.strip():
        return "the reply holds thoughts only" if thought else "the reply is empty"
    if not 0 <= reply.prompt_tokens <= MOST_TOKENS:
        return "the reply counts its tokens by a number out of range"
    numbers = (one for token in reply.logprobs or () for one in (token.logprob, *(value for _, value in token.top)))
    if not all(isfinite(number) and number <= MOST_LOGPROB for number in numbers):
        return "the reply holds token probabilities out of range"
    return ""


def without_thoughts(reply: Reply) -> Reply:
    """The reply without the model's thoughts in front of its text; it has a problem if that leaves no clean text."""
    if not _TAG.search(reply.text):
        return reply
    text = _THOUGHTS.sub("", reply.text).strip()
    if text and not _TAG.search(text):
        return replace(reply, text=text)
    problem = "the reply holds thoughts only, thoughts that do not end, or their tag inside its text"
    return replace(reply, problem=reply.problem or f"{problem}; switch thoughts off or raise max_tokens")


def _cut_after_first_line(reply: Reply) -> Reply:
    """The first line of a reply that was cut off, if that line is whole; else the reply as it is."""
    clean = without_thoughts(reply)
    line, end, _ = clean.text.lstrip().partition("\n")
    return replace(reply, text=line, stop="stop", logprobs=None) if end and not clean.problem else reply


def text_in(content: Any) -> str:
    """The text of a message, which is one, or typed parts of which some are text."""
    if isinstance(content, list):
        parts = [one for one in content if isinstance(one, dict) and one.get("type", "text") in ("text", "output_text")]
        content = "".join(one["text"] for one in parts if isinstance(one.get("text"), str))
    return writable(content) if isinstance(content, str) else ""


def stop_in(reason: Any) -> str:
    """Why the model stopped: `stop`, `length`, "" if the server does not say, or the server's own reason.

    >>> [stop_in(one) for one in ("STOP", "eos_token", "FinishReason.MAX_TOKENS", None, "content_filter")]
    ['stop', 'stop', 'length', '', 'content_filter']
    """
    said = one_line("" if reason is None else reason)
    word = said.lower().rsplit(".", 1)[-1]
    if word in ENDS:
        return "stop"
    if word in CUTS:
        return "length"
    return "" if word in ("none", "null") else said


def read_logprobs(content: Any) -> tuple[Token, ...] | None:
    """The tokens of a reply in the format of OpenAI's and Ollama's APIs, or None if they are invalid.

    A number that no logarithm of a probability can be is read as infinity, which `problem_of` refuses.
    """
    if not isinstance(content, list) or not 0 < len(content) <= LONGEST:
        return None
    try:
        return tuple(
            Token(
                text=_token(one["token"]),
                logprob=_number(one["logprob"]),
                top=tuple((_token(top["token"]), _number(top["logprob"])) for top in one.get("top_logprobs") or ()),
            )
            for one in content
        )
    except (KeyError, TypeError, AttributeError):
        return None


def kept_reply(text: Any, stop: Any, prompt_tokens: Any, logprobs: Any) -> Reply | None:
    """A reply from its cached form, with `logprobs` as lists; None if it is invalid."""
    if not isinstance(text, str) or not isinstance(stop, str) or type(prompt_tokens) is not int or not _plain(text):
        return None
    try:
        tokens = None if logprobs is None else tuple(_kept_token(one) for one in logprobs)
    except (TypeError, ValueError):
        return None
    reply = Reply(text=text, stop=stop, prompt_tokens=prompt_tokens, logprobs=tokens or None, attempts=0)
    return None if problem_of(reply) else reply


def writable(text: str) -> str:
    """The text with half a surrogate pair, which no UTF-8 file can hold, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _kept_token(value: Any) -> Token:
    text, logprob, top = value
    return Token(text=_same(text), logprob=_number(logprob), top=tuple((_same(one), _number(n)) for one, n in top))


def _same(text: Any) -> str:
    if not isinstance(text, str) or not _plain(text):
        raise TypeError
    return text


def _plain(text: str) -> bool:
    return writable(text) == text


def _token(text: Any) -> str:
    return writable(text if isinstance(text, str) else str(text))


def _number(value: Any) -> float:
    """A number as a float, infinite where it is too large for one; raises TypeError for anything else."""
    if type(value) not in (int, float):
        raise TypeError
    try:
        return float(value)
    except OverflowError:
        return inf


def _count(value: Any) -> int:
    """A count of tokens, 0 if it is missing, and -1 for an invalid number."""
    if type(value) not in (int, float):
        return 0
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else -1
