"""Many requests at once: replies in order, each question asked once, answers kept as they come, an end by Ctrl-C."""

import signal
import threading
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from itertools import islice
from queue import Empty, SimpleQueue

from instruct.core.errors import ServerError
from instruct.core.progress import Progress
from instruct.servers.base import Reply, Request, Server
from instruct.servers.cache import ReplyCache

LOOKED_UP = 500  # requests whose keys are looked up in the cache at once
PATIENCE = 8  # requests in a row without any answer before the server is given up, or twice the workers if more

_Question = tuple[str, Request]
_Answer = tuple[str, Reply | BaseException]


def ask_all(
    server: Server,
    requests: Iterable[Request],
    *,
    cache: ReplyCache | None,
    workers: int,
    unit: str = "request",
    total: int | None = None,
) -> list[Reply]:
    """A reply to each request, in order.

    `unit` is what one is called in the lines of progress, which need `total` where the requests have no length.
    Requests are drawn as they are needed, so a generator of prompts takes no memory. Requests with the same key are
    one question: it is asked once, and all get its reply. Each reply without a problem goes into `cache` at once;
    without a cache, everything is asked. A server that leaves many requests in a row unanswered is given up.

    Raises ServerError where no request can succeed, and KeyboardInterrupt after Ctrl-C; both say what is kept.
    """
    assert workers >= 1
    progress = Progress(len(requests) if isinstance(requests, Sized) else total, unit)
    model = server.identity["model"]  # connects, before Ctrl-C has to wait for the books
    run = _Run(server, model, cache, workers, progress)
    try:
        with _interrupt_at_rest(run.answers):
            run.ask(iter(requests))
    except KeyboardInterrupt:
        run.close()  # before what is kept is counted
        raise KeyboardInterrupt(f"{run.kept()}; the same command goes on from there") from None
    except ServerError as error:
        raise ServerError(f"{error}\n{run.kept()}") from None
    finally:
        run.close()
    return run.replies()


class _Run:
    """The state of one `ask_all`. Its thread alone keeps the books; the workers only ask."""

    def __init__(self, server: Server, model: str, cache: ReplyCache | None, workers: int, progress: Progress) -> None:
        self._server, self._model, self._cache, self._workers = server, model, cache, workers
        self._progress = progress
        self._keys: list[str] = []  # of each request, in order
        self._replies: dict[str, Reply] = {}
        self._times: dict[str, int] = {}  # how many requests wait for the answer to a question that is under way
        self._silent = 0
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self.answers: SimpleQueue[_Answer] = SimpleQueue()
        self._crew: list[threading.Thread] = []

    def ask(self, requests: Iterator[Request]) -> None:
        """Ask everything that is not known, a part at a time."""
        while part := list(islice(requests, LOOKED_UP)):
            for key, request in self._unknown(part):
                while len(self._times) >= 2 * self._workers:
                    self._take_answer()
                self._hand_out(key, request)
        while self._times:
            self._take_answer()

    def replies(self) -> list[Reply]:
        """All replies, in order."""
        return [self._replies[key] for key in self._keys]

    def kept(self) -> str:
        """How far the run came, for the message about its end."""
        progress = self._progress
        if self._cache is None:
            return f"no {progress.unit} is kept, since there is no cache"
        of = f" of {progress.total}" if progress.total is not None else ""
        return f"{progress.done - progress.failed}{of} {progress.unit}s are kept"

    def close(self) -> None:
        """Keep what has come in meanwhile and let the workers go; one that still waits ends with the process."""
        with suppress(Empty):  # what no worker has begun is not asked any more
            while True:
                self._questions.get_nowait()
        for _ in self._crew:
            self._questions.put(None)
        while not self.answers.empty():
            key, reply = self.answers.get()
            if isinstance(reply, Reply):
                self._record(key, reply)
        self._progress.close()

    def _unknown(self, part: list[Request]) -> Iterator[_Question]:
        """The requests to ask, each key once; those that the cache answers are booked."""
        keys = [self._server.key(request) for request in part]
        new = dict.fromkeys(key for key in keys if key not in self._replies and key not in self._times)
        found = self._cache.get(new) if self._cache is not None else {}
        self._replies |= found
        for key, request in zip(keys, part, strict=True):
            self._keys.append(key)
            if key in self._times:
                self._times[key] += 1
            elif key in self._replies:
                self._progress.known(problem=bool(self._replies[key].problem))
            else:
                yield key, request

    def _hand_out(self, key: str, request: Request) -> None:
        self._times[key] = 1
        if len(self._crew) < min(self._workers, len(self._times)):
            thread = threading.Thread(target=self._work, daemon=True)  # so that none holds up the end of the process
            thread.start()
            self._crew.append(thread)
        self._questions.put((key, request))

    def _work(self) -> None:
        while question := self._questions.get():
            key, request = question
            try:
                self.answers.put((key, self._server.ask(request)))
            except BaseException as error:  # is raised again where the books are kept
                self.answers.put((key, error))

    def _take_answer(self) -> None:
        key, reply = self.answers.get()
        if isinstance(reply, BaseException):
            raise reply
        self._record(key, reply)
        self._silent = 0 if reply.answered else self._silent + 1
        if self._silent >= max(PATIENCE, 2 * self._workers):
            raise ServerError(f"{self._silent} requests in a row had no answer; the last: {reply.problem}")

    def _record(self, key: str, reply: Reply) -> None:
        if self._cache is not None and not reply.problem:
            reply = self._cache.put(key, reply, self._model)
        self._replies[key] = reply
        self._progress.add(self._times.pop(key), problem=bool(reply.problem))


@contextmanager
def _interrupt_at_rest(answers: SimpleQueue[_Answer]) -> Iterator[None]:
    """Let Ctrl-C come as an answer, so that no other is lost between its arrival and its entry; a second is at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    interrupts: list[KeyboardInterrupt] = []

    def on_interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupts.append(KeyboardInterrupt())
        answers.put(("", interrupts[0]))

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise interrupts[0]
