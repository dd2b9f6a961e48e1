import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from servers.fault_server import FaultServer, right_text
from servers.settings import calls, ollama_params, question

from instruct.core.errors import ServerError
from instruct.servers.asking import ask_all
from instruct.servers.base import Reply, Request, ServerState
from instruct.servers.cache import ReplyCache
from instruct.servers.ollama import Ollama

ROOT = Path(__file__).parents[2]
CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background ignores it
from pathlib import Path
sys.path[:0] = [sys.argv[3], sys.argv[4]]
from servers.settings import calls, ollama_params, question
from instruct.servers.asking import ask_all
from instruct.servers.cache import ReplyCache
from instruct.servers.ollama import Ollama
judge = Ollama(ollama_params(sys.argv[1], model="judge"), calls())
requests = [question(f"item {item}") for item in range(400)]
with ReplyCache(Path(sys.argv[2])) as cache:
    try:
        ask_all(judge, requests, cache=cache, workers=4, unit="verdict")
    except KeyboardInterrupt as interrupt:
        print(cache.count(), interrupt, flush=True)
"""


@dataclass
class Parrot:
    """Answers with the prompt; `answers` may hold other replies and errors for some prompts."""

    answers: dict[str, Reply | Exception] = field(default_factory=dict)
    pause: float = 0.0
    asked: list[str] = field(default_factory=list)
    workers: int = 1
    identity: ClassVar[dict[str, str]] = {"server": "parrot", "model": "parrot"}

    def check(self, longest: Request | None = None) -> ServerState:
        raise NotImplementedError

    def key(self, request: Request) -> str:
        return f"{request.messages[0][1]} {request.repeat}"

    def ask(self, request: Request) -> Reply:
        text = request.messages[0][1]
        time.sleep(self.pause)
        self.asked.append(text)
        answer = self.answers.get(text, Reply(text=text))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


def texts(replies: list[Reply]) -> list[str]:
    return [reply.text for reply in replies]


@pytest.fixture
def cache(tmp_path):
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        yield cache


@pytest.mark.parametrize("workers", [1, 3, 40])
@pytest.mark.parametrize("count", [0, 1, 2, 1203])
def test_replies_come_in_the_order_of_the_requests(workers, count):
    requests = [question(str(number)) for number in range(count)]
    assert texts(ask_all(Parrot(), requests, cache=None, workers=workers)) == [str(number) for number in range(count)]


def test_one_question_is_asked_once_and_repeats_are_questions_of_their_own(cache):
    parrot = Parrot(pause=0.001)
    requests = [question(text, repeat=repeat) for text in "abcab" for repeat in (0, 1)] * 2
    for memory in (None, cache):
        parrot.asked.clear()
        replies = ask_all(parrot, requests, cache=memory, workers=4)
        assert sorted(parrot.asked) == sorted("abc" * 2)
        assert texts(replies) == [text for text in "abcab" for _ in (0, 1)] * 2
    assert cache.count() == 6


def test_what_is_in_the_cache_is_not_asked(cache):
    parrot = Parrot()
    requests = [question(str(number)) for number in range(600)]
    ask_all(parrot, requests[::3], cache=cache, workers=2)
    parrot.asked.clear()
    replies = ask_all(parrot, requests, cache=cache, workers=2)
    assert [reply.attempts == 0 for reply in replies] == [number % 3 == 0 for number in range(600)]
    assert len(parrot.asked) == 400
    ask_all(parrot, requests, cache=cache, workers=2)
    assert len(parrot.asked) == 400
    ask_all(parrot, requests[:5], cache=None, workers=2)
    assert len(parrot.asked) == 405  # without a cache all are asked


def test_failures_are_kept_out_of_the_cache_and_in_their_places(cache):
    parrot = Parrot(
        {"1": Reply(text="", problem="the reply is empty"), "3": Reply(text="", problem="no", answered=False)}
    )
    requests = [question(str(number)) for number in range(5)]
    assert [reply.problem for reply in ask_all(parrot, requests, cache=cache, workers=2)] == [
        "", "the reply is empty", "", "no", "",
    ]  # fmt: skip
    assert cache.count() == 3


def test_the_reply_of_another_process_counts(cache):
    """Else a second evaluation would not repeat the first."""

    class Slow(Parrot):
        def ask(self, request: Request) -> Reply:
            with ReplyCache(cache.path) as other:
                other.put(self.key(request), Reply(text="theirs"), "parrot")
            return super().ask(request)

    assert texts(ask_all(Slow(), [question("a")], cache=cache, workers=1)) == ["theirs"]


def test_a_server_that_gives_no_answer_many_times_over_is_given_up(cache):
    dead = {str(number): Reply(text="", problem="gone", answered=False) for number in range(10, 1000)}
    parrot = Parrot(dead, pause=0.01)
    with pytest.raises(ServerError, match="gone\n10 of 1000 verdicts"):
        ask_all(parrot, [question(str(number)) for number in range(1000)], cache=cache, workers=2, unit="verdict")
    assert len(parrot.asked) < 500  # some were under way
    assert cache.count() == 10


def test_problems_of_replies_never_give_a_server_up():
    parrot = Parrot({str(number): Reply(text="", problem="the reply is empty") for number in range(100)})
    assert len(ask_all(parrot, [question(str(number)) for number in range(100)], cache=None, workers=2)) == 100


def test_what_befalls_every_request_ends_the_run_at_once(cache):
    parrot = Parrot({"5": ServerError("there is no such model")}, pause=0.001)
    requests = [question(str(number)) for number in range(1000)]
    with pytest.raises(ServerError, match="there is no such model\n5 of 1000 requests"):
        ask_all(parrot, requests, cache=cache, workers=1)
    assert len(parrot.asked) < 20


def test_a_bug_keeps_its_own_name():
    with pytest.raises(ZeroDivisionError):
        ask_all(Parrot({"1": ZeroDivisionError()}), [question("0"), question("1")], cache=None, workers=1)


@pytest.mark.parametrize("workers, slots, busiest", [(1, 8, 1), (4, 8, 4), (8, 3, 3)])
def test_as_many_are_under_way_as_workers_and_server_allow(workers, slots, busiest):
    with FaultServer(latency=0.01, slots=slots) as server:
        judge = Ollama(ollama_params(server.url, model="judge", workers=workers), calls())
        ask_all(judge, [question(f"item {item}") for item in range(40)], cache=None, workers=workers)
        judge.close()
        assert server.busiest == busiest


def test_no_thread_stays_behind():
    before = threading.active_count()
    ask_all(Parrot(), [question(str(number)) for number in range(20)], cache=None, workers=8)
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before


def start_child(server: FaultServer, path: Path) -> subprocess.Popen:
    arguments = [server.url, path, ROOT / "src", ROOT / "tests"]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True)


def wait_for_answers(server: FaultServer, count: int) -> None:
    until = time.monotonic() + 30
    while server.answers < count and time.monotonic() < until:
        time.sleep(0.005)
    assert server.answers >= count


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(tmp_path):
    with FaultServer(latency=0.1) as server:
        child = start_child(server, tmp_path / "replies.sqlite")
        wait_for_answers(server, 50)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=20)
        assert child.returncode == 0
        count, told = re.fullmatch(
            r"(\d+) (\d+) of 400 verdicts are kept; the same command goes on from there\n", out
        ).groups()
        assert count == told and 50 - 4 <= int(count) <= server.answers  # the server counts what it has sent
        assert server.answers - int(count) <= 4  # at most what was on its way to the four workers
        time.sleep(5 * server.latency)  # until the server has answered what was on its way when the child left
        answered = server.answers

        server.latency = 0.0
        child = start_child(server, tmp_path / "replies.sqlite")
        assert child.wait(timeout=30) == 0
        assert child.stdout
        child.stdout.close()
        assert server.answers == answered + 400 - int(count)
        with ReplyCache(tmp_path / "replies.sqlite") as cache:
            assert cache.count() == 400


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_loses_nothing_that_was_answered(tmp_path):
    with FaultServer(latency=0.1) as server:
        child = start_child(server, tmp_path / "replies.sqlite")
        wait_for_answers(server, 50)
        child.kill()
        child.communicate()
        answered = server.answers
        with ReplyCache(tmp_path / "replies.sqlite") as cache:
            assert answered - 8 <= cache.count() <= answered
            judge = Ollama(ollama_params(server.url, model="judge"), calls())
            server.latency = 0.0
            replies = ask_all(judge, [question(f"item {item}") for item in range(400)], cache=cache, workers=4)
            judge.close()
            assert texts(replies) == [right_text(item) for item in range(400)]
            assert server.answers <= 400 + 8


def test_ctrl_c_in_another_thread_than_the_main_one_is_left_alone():
    """Where signals cannot be handled, nothing is changed about them."""
    before = signal.getsignal(signal.SIGINT)
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.extend(ask_all(Parrot(), [question("a")], cache=None, workers=1)))
    thread.start()
    thread.join()
    assert texts(replies) == ["a"] and signal.getsignal(signal.SIGINT) is before


def test_the_handler_of_ctrl_c_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    ask_all(Parrot(), [question("a")], cache=None, workers=1)
    assert signal.getsignal(signal.SIGINT) is before
