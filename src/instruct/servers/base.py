"""The interface of a language model server: a request in, the raw reply out; callers parse the reply."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question to a model.

    `messages` are pairs of role (system, user, assistant) and text; `schema` is a JSON schema that the reply must
    follow. The `repeat`-th time of asking (from 0) is drawn with `seed + repeat`, so repeats differ where the
    temperature is above 0. `top_logprobs` asks for so many likeliest tokens (at most 20) at each place of the reply.
    With `first_line` only the first line of the reply is wanted, so a reply may be cut off after it.
    """

    messages: tuple[tuple[str, str], ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 123
    repeat: int = 0
    top_logprobs: int = 0
    first_line: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One token of a reply, its log-probability (natural), and the likeliest tokens at its place, best first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The raw reply.

    `problem` says why the text cannot be used (no answer, cut off, empty, by another model); such replies are never
    cached. `answered` is False if the server is unreachable, silent or failing. `stop` is why the model stopped: "stop"
    or "length", and empty if the server does not say. `prompt_tokens` is 0 if the server does not count them.
    `attempts` is 0 for a reply from the cache.

    `logprobs` is None if the server gave none. They belong to the model's own distribution, before a schema restricts
    it, and their texts may add up to more than `text`: llama.cpp drops the fence around fenced JSON.
    """

    text: str
    problem: str = ""
    answered: bool = True
    stop: str = ""
    logprobs: tuple[Token, ...] | None = None
    prompt_tokens: int = 0
    attempts: int = 1


Ask = Callable[[Sequence[Request]], list[Reply]]


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The result of checking a server; errors are fields, not exceptions.

    `problem` is empty if the server can be used, else it says what is wrong and what to do; `command` is a suggestion
    for the user, such as `ollama pull llama3`. `context` is the limit of prompt and reply in tokens, 0 if the server
    does not say. `note` is a warning that does not prevent use.
    """

    where: str
    model: str
    reachable: bool = False
    version: str = ""
    digest: str = ""
    quantization: str = ""
    context: int = 0
    problem: str = ""
    command: str = ""
    note: str = ""


class Server(Protocol):
    """A client of one model on one server; its methods may be called from several threads.

    `open_server` makes one without connecting; the first use connects, and raises ServerError if that fails.
    """

    workers: int
    """The number of parallel requests."""

    @property
    def identity(self) -> dict[str, str]:
        """What identifies the answering model: server, model, and what else the server's kind tells, such as a digest.

        Only Ollama without a pinned digest connects for it.
        """

    def check(self, longest: Request | None = None) -> ServerState:
        """Check that server and model exist, load the model, and try whether `longest` and its reply fit."""

    def key(self, request: Request) -> str:
        """The sha256 of everything that decides the reply: weights, prompt, schema, options, repeat.

        Connects where `identity` does.
        """

    def ask(self, request: Request) -> Reply:
        """One reply, after as many retries as the settings allow.

        A failed request gives a reply with a `problem`; an error that affects every request (no such model, no
        permission) is a ServerError.
        """

    def close(self) -> None:
        """Close connections and any server in this process."""
