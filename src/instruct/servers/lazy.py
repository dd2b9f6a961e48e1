"""Asks the configured server, and opens it only if there is a question."""

from collections.abc import Sequence

from instruct.servers.asking import ask_all
from instruct.servers.base import Reply, Request, Server
from instruct.servers.cache import ReplyCache, cache_file
from instruct.servers.opening import open_server
from instruct.servers.replies import without_thoughts
from instruct.servers.settings import ServerName, ServersParams


class LazyServer:
    """A server that is opened at the first question; caches every reply, so that a stopped run resumes."""

    def __init__(self, params: ServersParams, name: ServerName) -> None:
        self._params, self._name = params, name
        self._server: Server | None = None

    def __enter__(self) -> "LazyServer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.close()

    @property
    def identity(self) -> dict[str, str]:
        """The identity of the server's model; empty if it was not asked."""
        return self._server.identity if self._server else {}

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies to the requests, in order, without the model's thoughts: the texts become data."""
        if not requests:
            return []
        return [without_thoughts(reply) for reply in self._replies(requests)]

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        self._server = self._server or open_server(self._params, self._name)
        workers = self._server.workers
        if not self._params.cache:
            return ask_all(self._server, requests, cache=None, workers=workers)
        with ReplyCache(cache_file()) as cache:
            return ask_all(self._server, requests, cache=cache, workers=workers)
