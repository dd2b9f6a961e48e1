"""A connection to the server: how long it may be silent, and how many there may be."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

AT_ONCE = 2048  # connections that the system keeps until they are accepted


class Connection(H11Protocol):
    """Closes a connection whose next request has not begun with all its headers after `patience` seconds.

    Those beyond `most` are closed as they come. Between two requests uvicorn also closes a silent one, sooner.
    """

    def __init__(self, *given: Any, patience: float, most: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._patience, self._most = patience, most
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wait for a request, or close."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; the guard times a body."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self._patience, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def most_connections() -> int:
    """Half of the files that this process may have open, since each connection is one."""
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return AT_ONCE
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return AT_ONCE if limit == resource.RLIM_INFINITY else max(limit // 2, 1)
