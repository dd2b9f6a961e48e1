"""What the clients share: the key of a request, and a reply from the parts of an answer."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from instruct.servers.base import Reply, Token

LONGEST = 100_000  # characters; what is longer is no reply to anything that we ask
SHOWN = 20_000  # of them are kept


def key_of(server: str, weights: str, asked: Mapping[str, Any], repeat: int) -> str:
    """The sha256 of all that decides a reply; the same on every machine and in every version of Python."""
    parts = {"asked": asked, "repeat": repeat, "server": server, "weights": weights}
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def reply_of(text: Any, stop: str, prompt_tokens: Any, *, thought: bool) -> Reply:
    """A reply, with its problem if it has one."""
    tokens = prompt_tokens if type(prompt_tokens) is int else 0
    if not isinstance(text, str):
        text = ""
    text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair could not be written
    problem = ""
    if len(text) > LONGEST:
        problem = f"the reply has {len(text)} characters, of which the first {SHOWN} are kept"
        text = text[:SHOWN]
    elif stop == "length":
        thoughts = " (thoughts count too; switch them off)" if thought else ""
        problem = f"the reply was cut off at its most tokens{thoughts}; raise max_tokens"
    elif stop != "stop":
        problem = f"the reply ended by {stop or 'nothing'}, not by itself"
    elif not text.strip():
        problem = "the reply holds thoughts only" if thought else "the reply is empty"
    return Reply(text=text, problem=problem, stop=stop, prompt_tokens=tokens)


def read_logprobs(content: Any) -> tuple[Token, ...] | None:
    """The tokens of a reply, as OpenAI's and Ollama's API alike write them, or None where they are not right."""
    if not isinstance(content, list) or not content:
        return None
    try:
        return tuple(
            Token(
                text=_text(one["token"]),
                logprob=float(one["logprob"]),
                top=tuple((_text(top["token"]), float(top["logprob"])) for top in one.get("top_logprobs") or ()),
            )
            for one in content
        )
    except (KeyError, TypeError, ValueError):
        return None


def _text(token: Any) -> str:
    return str(token).encode("utf-8", "backslashreplace").decode()
