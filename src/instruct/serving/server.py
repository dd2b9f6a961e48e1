"""The server as a process: checks before it listens, and how it shuts down."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from instruct.core.errors import InstructError, ParamsError
from instruct.serving.app import make_app
from instruct.serving.asking import Desk
from instruct.serving.connection import AT_ONCE, Connection, most_connections
from instruct.serving.feedback import Feedback
from instruct.serving.guard import LOOPBACK, Guard
from instruct.serving.loop import EngineLoop
from instruct.serving.memory import give_back_large_blocks
from instruct.serving.metrics import Metrics
from instruct.serving.policy import read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import System, open_system

LOOK_S = 0.05
CLOSE_S = 1
"""Seconds for what still runs after `grace`: connections that a client keeps open, answers that nobody reads."""


def key_for(params: ServeParams) -> str:
    """The API key from its variable; raises ParamsError if it is missing and other machines can reach the server."""
    key = os.environ.get(params.key_variable, "").strip()
    if not key and params.host not in LOOPBACK:
        raise ParamsError(
            f"serve.host or --host is {params.host}, which other machines can reach; set the variable "
            f"{params.key_variable} to an API key, or the host to 127.0.0.1"
        )
    return key


def bind(params: ServeParams) -> socket.socket:
    """The socket to listen on; raises InstructError if the port is in use or the host is not this machine's."""
    family = socket.AF_INET6 if ":" in params.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((params.host, params.port))
        listening.listen(AT_ONCE)
    except OSError as error:
        listening.close()
        raise InstructError(
            f"{params.host}:{params.port}: cannot listen on it ({error.strerror}); give another --port, or stop the "
            "program that uses it"
        ) from None
    return listening


class Served:
    """One server: `guard` is the whole application."""

    def __init__(self, systems: dict[str, System], params: ServeParams, key: str = "", root: Path = Path()) -> None:
        for one in systems.values():
            if params.cache_tokens < 2 * len(one.tokenizer.encode(one.template.prefix)) + 16:
                raise ParamsError(
                    "params.yaml: serve.cache_tokens leaves no room after the template's tokens; raise it"
                )
        self.params = params
        policy = read_policy(params.policy)
        self.engine = EngineLoop(systems, slots=params.slots, cache_tokens=params.cache_tokens, queue=params.queue)
        self.metrics = Metrics(self.engine)
        desk = Desk(systems=systems, params=params, policy=policy, engine=self.engine)
        feedback = Feedback(systems, params.max_similarity, root)
        self.guard = Guard(make_app(desk, self.metrics, feedback), params, key, self.metrics)


class Server(uvicorn.Server):
    """A server that, on the first SIGTERM or Ctrl-C, finishes running answers and refuses new ones with 503."""

    def __init__(self, served: Served) -> None:
        most = most_connections()
        config = uvicorn.Config(
            served.guard,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # any client could claim another address, and requests are counted by address
            lifespan="on",
            http=partial(Connection, patience=served.params.patience, most=most),  # type: ignore[arg-type]  # makes one
            backlog=max(min(most // 16, 100), 1),  # how many asyncio opens at once, before `most` can refuse any
            timeout_graceful_shutdown=CLOSE_S,
        )
        super().__init__(config)
        self._served = served

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to shut down; a second signal ends the process at once."""
        if self._served.guard.draining:
            super().handle_exit(sig, frame)
            return
        self._served.guard.draining = True
        asyncio.get_event_loop().create_task(self.drain())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; as many connections as ever may wait to be accepted, a few at once."""
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(AT_ONCE)

    async def drain(self) -> None:
        """Exit once no answer is running, or after `grace` seconds; answers that then still run end with an error."""
        until = asyncio.get_running_loop().time() + self._served.params.grace
        while self._served.guard.running and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_S)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down, and drop the connections of clients that do not read: to close one takes a client that does."""
        await asyncio.to_thread(self._served.engine.close)
        await super().shutdown(sockets)
        for connection in self.server_state.connections:
            connection.transport.abort()
        await asyncio.sleep(0)


def serve(names: Sequence[str], params: ServeParams) -> None:
    """Load the systems and answer until a signal."""
    key, listening = key_for(params), bind(params)
    with listening:
        systems = open_systems(names)
        give_back_large_blocks()
        served = Served(systems, params, key)
        host, port = listening.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}: {', '.join(systems)}; Ctrl-C ends it", flush=True)
        Server(served).run(sockets=[listening])


def open_systems(names: Sequence[str]) -> dict[str, System]:
    """Load the systems in a thread that ends.

    Each thread that computes has OpenMP threads of its own. With more of them than processors OpenMP lets them sleep
    between any two products instead of waiting for the next, and each step for one client waits for them to wake.
    """
    with ThreadPoolExecutor(1) as loader:
        return {name: loader.submit(open_system, name).result() for name in names}
