"""Asks the configured server, but only if there is something to ask."""

from collections.abc import Sequence

from instruct.servers.asking import ask_all
from instruct.servers.base import Reply, Request, Server
from instruct.servers.cache import ReplyCache, cache_file
from instruct.servers.opening import open_server
from instruct.servers.settings import ServerName, ServersParams


class Asking:
    """A server that is opened for the first question; every reply is kept, so a stopped run goes on from there."""

    def __init__(self, params: ServersParams, name: ServerName) -> None:
        self._params, self._name = params, name
        self._server: Server | None = None

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.close()

    @property
    def identity(self) -> dict[str, str]:
        """Who answered; empty where nobody was asked."""
        return self._server.identity if self._server else {}

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply to each request, in order."""
        if not requests:
            return []
        self._server = self._server or open_server(self._params, self._name)
        workers = self._server.workers
        if not self._params.cache:
            return ask_all(self._server, requests, cache=None, workers=workers)
        with ReplyCache(cache_file()) as cache:
            return ask_all(self._server, requests, cache=cache, workers=workers)
