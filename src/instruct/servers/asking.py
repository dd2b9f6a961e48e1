"""Many requests at once: replies in order, each question asked once, answers kept as they come, an end by Ctrl-C."""

import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue

from tqdm import tqdm

from instruct.errors import ServerError
from instruct.servers.base import Reply, Request, Server
from instruct.servers.cache import ReplyCache

log = logging.getLogger(__name__)

LOOKED_UP = 500  # requests whose keys are looked up in the cache at once
LOG_S = 30.0  # between lines of progress where there is no terminal
PATIENCE = 8  # requests in a row without any answer before the server is given up, or twice the workers if more

_Question = tuple[str, Request]
_Answer = tuple[str, Reply | BaseException]
_INTERRUPT: _Answer = ("", KeyboardInterrupt())


def ask_all(
    server: Server, requests: Iterable[Request], *, cache: ReplyCache | None, workers: int, unit: str = "reply"
) -> list[Reply]:
    """A reply to each request, in order; `unit` is what one is called in the lines of progress.

    Requests are drawn as they are needed, so a generator of prompts takes no memory. Requests with the same key are
    one question: it is asked once, and all get its reply. Each reply without a problem goes into `cache` at once;
    without a cache, everything is asked. A server that leaves many requests in a row unanswered is given up.

    Raises ServerError where no request can succeed, and KeyboardInterrupt after Ctrl-C; both say what is kept.
    """
    assert workers >= 1
    total = len(requests) if isinstance(requests, Sized) else None
    run = _Run(server, cache, workers, total, unit)
    try:
        with _interrupt_at_rest(run.answers):
            run.all_of(iter(requests))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{run.kept()}; the same command goes on from there") from None
    except ServerError as error:
        raise ServerError(f"{error}\n{run.kept()}") from None
    finally:
        run.close()
    return run.replies()


class _Run:
    """The state of one `ask_all`. Its thread alone keeps the books; the workers only ask."""

    def __init__(self, server: Server, cache: ReplyCache | None, workers: int, total: int | None, unit: str) -> None:
        self._server, self._cache, self._workers = server, cache, workers
        self._unit, self._total = unit, total
        self._model = ""
        self._keys: list[str] = []  # of each request, in order
        self._replies: dict[str, Reply | None] = {}  # None: asked and not answered yet
        self._under_way = self._done = self._stored = self._failed = self._silent = 0
        self.answers: SimpleQueue[_Answer] = SimpleQueue()
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self._crew: list[threading.Thread] = []
        self._progress = tqdm(total=total, unit=unit, smoothing=0, disable=None)
        self._begun = self._logged = time.monotonic()

    def all_of(self, requests: Iterator[Request]) -> None:
        """Ask everything that is not known, a part at a time."""
        while part := list(islice(requests, LOOKED_UP)):
            for key, request in self._unknown(part).items():
                while self._under_way >= 2 * self._workers:
                    self._take_one()
                self._hand_out(key, request)
        while self._under_way:
            self._take_one()

    def replies(self) -> list[Reply]:
        """All replies, in order."""
        found = [self._replies[key] for key in self._keys]
        assert None not in found
        return [reply for reply in found if reply]

    def kept(self) -> str:
        """How far the run came, for a message about its end."""
        if self._cache is None:
            return f"nothing is kept of {self._asked()}, since there is no cache"
        of = f" of {self._total}" if self._total is not None else ""
        return f"{self._stored + self._known()}{of} {self._unit}s are kept"

    def close(self) -> None:
        """Let the workers go; one that waits for the server ends with the process."""
        while not self.answers.empty():
            key, reply = self.answers.get()
            if isinstance(reply, Reply):
                self._record(key, reply)
        for _ in self._crew:
            self._questions.put(None)
        self._progress.close()
