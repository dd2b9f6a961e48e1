"""Many requests at once: replies in order, each question asked once, replies cached at once, stopped by Ctrl-C."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
    requests: Sequence[Request],
    *,
    cache: ReplyCache | None,
    workers: int,
    unit: str = "request",
) -> list[Reply]:
    """A reply to each request, in order.

    `unit` is the name of a request in progress lines. Requests with the same key are asked once and share the reply.
    Each reply without a problem goes into `cache` at once. Without a cache, everything is asked. After many unanswered
    requests in a row it gives up.

    Raises ServerError if no request can succeed, and KeyboardInterrupt after Ctrl-C; both say what is kept.
    """
    assert workers >= 1
    progress = Progress(len(requests), unit)
    model = server.identity["model"]  # if this connects, then before Ctrl-C is deferred
    run = _Run(server, model, cache, workers, progress)
    try:
        with _interrupt_at_rest(run.answers):
            run.ask(requests)
    except KeyboardInterrupt:
        run.close()  # before counting the kept replies
        raise KeyboardInterrupt(f"{run.kept()}; the same command goes on from there") from None
    except ServerError as error:
        raise ServerError(f"{error}\n{run.kept()}") from None
    finally:
        run.close()
    return run.replies()


class _Run:
    """The state of one `ask_all`. Only its own thread changes it; the workers only ask."""

    def __init__(self, server: Server, model: str, cache: ReplyCache | None, workers: int, progress: Progress) -> None:
        self._server, self._model, self._cache, self._workers = server, model, cache, workers
        self._progress = progress
        self._keys: list[str] = []  # of each request, in order
        self._replies: dict[str, Reply] = {}
        self._times: dict[str, int] = {}  # requests that wait for the same question in progress
        self._silent = 0
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self.answers: SimpleQueue[_Answer] = SimpleQueue()
        self._crew: list[threading.Thread] = []

    def ask(self, requests: Sequence[Request]) -> None:
        """Ask all requests that the cache lacks, in parts."""
        for start in range(0, len(requests), LOOKED_UP):
            for key, request in self._unknown(requests[start : start + LOOKED_UP]):
                while len(self._times) >= 2 * self._workers:
                    self._take_answer()
                self._hand_out(key, request)
        while self._times:
            self._take_answer()

    def replies(self) -> list[Reply]:
        return [self._replies[key] for key in self._keys]

    def kept(self) -> str:
        """The progress of the run, for its last message."""
        progress = self._progress
        if self._cache is None:
            return f"no {progress.unit} is kept, since there is no cache"
        return f"{progress.done - progress.failed} of {progress.total} {progress.unit}s are kept"

    def close(self) -> None:
        """Store replies that arrived meanwhile and release the workers; one that still waits ends with the process."""
        with suppress(Empty):  # requests that no worker has started are dropped
            while True:
                self._questions.get_nowait()
        for _ in self._crew:
            self._questions.put(None)
        while not self.answers.empty():
            key, reply = self.answers.get()
            if isinstance(reply, Reply):
                self._record(key, reply)
        self._progress.close()

    def _unknown(self, part: Sequence[Request]) -> Iterator[_Question]:
        """The requests to ask, each key once; stores the replies that the cache has."""
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
            thread = threading.Thread(target=self._work, daemon=True)  # so that no thread delays the end of the process
            thread.start()
            self._crew.append(thread)
        self._questions.put((key, request))

    def _work(self) -> None:
        while question := self._questions.get():
            key, request = question
            try:
                self.answers.put((key, self._server.ask(request)))
            except BaseException as error:  # raised again in the main thread
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
    """Handle Ctrl-C like a reply, so that no reply is lost before it is stored; a second Ctrl-C stops at once."""
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
