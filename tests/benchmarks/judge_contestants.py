"""Who asks a server for verdicts in bench_judge.py: ours, a pool of threads around `requests`, and one at a time.

Started by harness.py, with the name of a contestant and the file of its task.
"""

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parents[1])]

import harness  # noqa: E402  (found beside this file)

PROMPT = "Compare the response with the reference answer and give a score from 0 to 100. " * 12  # about 1 kB


def prompts(count: int, start: int) -> Iterator[str]:
    """So many prompts that no other run has."""
    return (f"{PROMPT} item {start + number}" for number in range(count))


def ours(task: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """`ask_all` with its cache; the modes `warm` and `memory` measure without a server."""
    from servers.settings import calls, ollama_params

    from instruct.servers.asking import ask_all
    from instruct.servers.base import Reply, Request
    from instruct.servers.cache import ReplyCache
    from instruct.servers.ollama import Ollama

    class InProcess(Ollama):
        """Answers by itself: what is left is the keeping of the books."""

        def ask(self, request: Request) -> Reply:
            return Reply(text='{"score": 85}', stop="stop", prompt_tokens=250)

    def judge(cls: type[Ollama], url: str, workers: int) -> Ollama:
        return cls(ollama_params(url, model="judge", workers=workers, digest="f" * 64), calls())

    def requests(count: int, start: int) -> list[Request]:
        return [Request(messages=(("user", prompt),)) for prompt in prompts(count, start)]

    def run(mode: str, count: int, start: int = 0, workers: int = 1, server: str = "slow") -> dict[str, Any]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "replies.sqlite"
            if mode == "warm":
                with ReplyCache(path) as cache:
                    ask_all(judge(InProcess, task["slow"], 4), requests(count, start), cache=cache, workers=4)
            client = judge(Ollama if mode == "cold" else InProcess, task[server], workers)
            if mode == "cold":
                client.check()
            begun, used = time.perf_counter(), time.process_time()
            with ReplyCache(path) as cache:
                replies = ask_all(client, requests(count, start), cache=cache, workers=workers)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - used
            assert len(replies) == count and not any(reply.problem for reply in replies)
            assert all((reply.attempts == 0) == (mode == "warm") for reply in replies)
            return {"seconds": seconds, "cpu_s": cpu}

    return run


def pool(task: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """What one would write: a session for each thread of a pool; no retries, no cache."""
    import threading

    import requests

    local = threading.local()

    def ask(prompt: str) -> str:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        body = {"model": "judge", "messages": [{"role": "user", "content": prompt}], "stream": False}
        return local.session.post(f"{task['slow']}/api/chat", json=body, timeout=60).json()["message"]["content"]

    def run(count: int, start: int, workers: int, **_: Any) -> dict[str, Any]:
        begun, used = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(workers) as executor:
            replies = list(executor.map(ask, prompts(count, start)))
        assert len(replies) == count
        return {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - used}

    return run


def one_at_a_time(task: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """As the book's evaluator does: urllib, a connection for each verdict, no cache."""

    def run(count: int, start: int, **_: Any) -> dict[str, Any]:
        begun, used = time.perf_counter(), time.process_time()
        for prompt in prompts(count, start):
            body = {"model": "judge", "messages": [{"role": "user", "content": prompt}], "stream": False}
            request = urllib.request.Request(f"{task['slow']}/api/chat", data=json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=60) as answer:
                json.load(answer)["message"]["content"]
        return {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - used}

    return run


CONTESTANTS = {harness.OURS: ours, "requests": pool, "one-at-a-time": one_at_a_time}

if __name__ == "__main__":
    harness.serve(CONTESTANTS)
