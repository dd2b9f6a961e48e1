"""A server of Ollama's and OpenAI's chat API with a set latency and number of slots, and faults at a set rate.

A prompt holds `item N`. What happens to its k-th attempt is drawn from N and k alone, so a run can be told beforehand;
the ledger notes what really went out. To time clients, start it as a process of its own:

    python tests/servers/fault_server.py 0.05 32     # latency in seconds, slots; prints its address
"""

import asyncio
import json
import random
import re
import socket
import struct
import sys
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

DIGEST = "f" * 64
KEY = "sk-very-secret-1234"
HUGE = "9" * 150_000
# What a model says in place of a score, and whether that is a problem of the reply itself.
CONTENTS = {
    "empty": ("", True),
    "thinking only": ("", True),
    "text around": ("Well: I would say the score is 70, as most is right.", False),
    "fraction": ("85/100", False),
    "in words": ("about eighty", False),
    "too high": ("850", False),
    "negative": ("\u22121", False),
    "decimal": ("3.5", False),
    "whole decimal": ('{"score": 85.0}', False),
    "two numbers": ("70 or 80", False),
    "other digits": ("\u0668\u0665", False),
    "control characters": ("\x1b[2J85", False),
    "the key": (f"Your key is {KEY}.", False),
    "huge": (HUGE, True),
}
# The right answer, sent in an odd way or with more behind it.
ODD = (
    "surplus", "late surplus", "half surplus", "100 continue", "103 hints", "trailers", "until closed", "in pieces",
    "201", "odd end", "no end", "typed parts",
)  # fmt: skip
# The right answer beside something that makes the reply one with a problem.
BROKEN = ("huge count", "negative count", "NaN count", "cut off", "filtered")
# One refusal or one answer of something else: not tried again, and no reason to end the run.
REFUSALS = ("302", "403", "405", "html", "a list", "not HTTP")
TRANSIENT = (
    "refuse", "reset", "reset in body", "429", "500", "503", "error in 200", "cut lines", "cut chunks", "bad chunk",
    "cut head", "204", "408", "425",
)  # fmt: skip
SILENT = ("stall", "drip", "slow head", "endless 100", "endless trailers")
FAULTS = (*TRANSIENT * 4, *CONTENTS, *ODD, *BROKEN, *REFUSALS, *SILENT)

_ITEM = re.compile(r"item (\d+)")


WRONG = json.dumps({"score": 99, "of": "another question"})


def score_of(item: int) -> int:
    return item * 37 % 101


def right_text(item: int) -> str:
    return json.dumps({"score": score_of(item)})


@dataclass
class FaultServer:
    """Runs in a thread. `ledger` holds for each item what its attempts were answered with, in order."""

    latency: float = 0.0
    slots: int = 64
    rate: float = 0.0
    stall: float = 5.0  # seconds
    seed: int = 1
    ledger: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    busiest: int = 0
    url: str = ""

    def __enter__(self) -> "FaultServer":
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    @property
    def answers(self) -> int:
        return sum(map(len, self.ledger.values()))

    def fault(self, item: int, attempt: int) -> str:
        rng = random.Random(f"{self.seed}:{item}:{attempt}")
        return rng.choice(FAULTS) if rng.random() < self.rate else "right"

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.serve(started.set))

    async def serve(self, started) -> None:
        self._end, self._free, self._port = asyncio.Event(), asyncio.Semaphore(self.slots), 0
        self._tasks: set[asyncio.Task] = set()
        self._under_way = 0
        self._listen()
        self.url = f"http://127.0.0.1:{self._port}"
        started()
        await self._end.wait()
        self._close_listener()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.02)  # for transports to close

    def _listen(self) -> None:
        self._socket: socket.socket | None = socket.create_server(("127.0.0.1", self._port), backlog=1000)
        self._socket.setblocking(False)
        self._port = self._socket.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._socket, self._accept, self._socket)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            task = asyncio.create_task(self._connection(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _close_listener(self) -> None:
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def _refuse_for_a_moment(self) -> None:
        """Nobody listens: new connections are refused for real."""
        if self._socket:
            self._close_listener()
            await asyncio.sleep(0.003)
            self._listen()

    async def _connection(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                while await self._exchange(reader, writer):
                    pass
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        path = head.split(" ", 2)[1]
        found = _ITEM.search(body.decode()) if body else None
        if not found:
            writer.write(_http(200, _about(path)))
            return True
        item = int(found[1])
        async with self._free:
            self._under_way += 1
            self.busiest = max(self.busiest, self._under_way)
            if self.latency:
                await asyncio.sleep(self.latency)
            self._under_way -= 1
        fault = self.fault(item, len(self.ledger[item]))
        self.ledger[item].append(fault)
        return await self._answer(path, item, fault, writer)

    async def _answer(self, path: str, item: int, fault: str, writer: asyncio.StreamWriter) -> bool:
        """Send the answer; whether the connection stays open."""
        chat = _ollama if path == "/api/chat" else _openai
        right = _http(200, chat(right_text(item)))
        match fault:
            case "refuse" | "reset" | "reset in body":
                if fault == "reset in body":
                    writer.write(right[:-20])
                    await writer.drain()
                _reset(writer)
                if fault == "refuse":
                    await self._refuse_for_a_moment()
                return False
            case "stall" | "drip" | "slow head" | "endless 100" | "endless trailers":
                await self._keep_waiting(fault, right, writer)
                return False
            case "late surplus":
                writer.write(right)
                await asyncio.sleep(0.005)
                writer.write(_http(200, chat(WRONG)))
            case "in pieces":
                for start in range(0, len(right), 100):
                    writer.write(right[start : start + 100])
                    await asyncio.sleep(0)
            case _:
                writer.write(_bytes(fault, item, chat))
        await writer.drain()
        return fault not in ("cut chunks", "cut head", "bad chunk", "until closed", "not HTTP")

    async def _keep_waiting(self, fault: str, right: bytes, writer: asyncio.StreamWriter) -> None:
        """Never done; except for a stall, never silent for long either."""
        if fault == "stall":
            await asyncio.sleep(self.stall)
            return
        begin, again = {
            "drip": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
            "slow head": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
            "endless 100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            "endless trailers": (_chunked(right.partition(b"\r\n\r\n")[2]), b"X-More: a\r\n"),
        }[fault]
        writer.write(begin)
        for _ in range(int(self.stall / 0.02)):
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0.02)


def _bytes(fault: str, item: int, chat) -> bytes:
    """The bytes of an answer that need no waiting."""
    text = right_text(item)
    right = _http(200, chat(text))
    surplus = _http(200, chat(WRONG))
    body = json.dumps(chat(text)).encode()
    match fault:
        case "204" | "302" | "403" | "405" | "408" | "425" | "500" | "503":
            error = {"error": {"message": "\x1b[31mno", "code": int(fault)}}
            return _http(int(fault), "" if fault == "204" else error)
        case "429":
            return _http(429, {"error": {"message": "busy", "code": 429}}, "Retry-After: 0\r\n")
        case "error in 200":
            return _http(200, {"error": "the runner crashed"})
        case "cut lines":
            parts = ("{", '"score"')
            lines = [{"message": {"role": "assistant", "content": part}, "done": False} for part in parts]
            return _http(200, "\n".join(map(json.dumps, lines)))
        case "cut chunks":
            return _chunked(body[:30])[:-3]
        case "bad chunk":
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + body
        case "cut head":
            return right[:12]
        case "html":
            return _http(200, "<html>gateway</html>")
        case "a list":
            return _http(200, "[1, 2]")
        case "not HTTP":
            return b"SSH-2.0-OpenSSH_9.6\r\n"
        case "surplus":
            return right + surplus
        case "half surplus":
            return right + surplus[:40]
        case "100 continue":
            return b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 3 + right
        case "103 hints":
            return b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + right
        case "trailers":
            return _chunked(body) + b"X-Sum: 1\r\n\r\n" + surplus
        case "until closed":
            return b"HTTP/1.1 200 OK\r\n\r\n" + body
        case "201":
            return _http(201, chat(text))
        case "odd end":
            return _http(200, chat(text, stop="EOS_token"))
        case "no end":
            return _http(200, chat(text, stop=None))
        case "typed parts":
            parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text[:5]}, {"text": text[5:]}]
            return _http(200, chat(parts))
        case "huge count" | "negative count" | "NaN count":
            tokens = {"huge count": 2**70, "negative count": -5, "NaN count": float("nan")}[fault]
            return _http(200, chat(text, tokens=tokens))
        case "cut off" | "filtered":
            return _http(200, chat(text, stop={"cut off": "max_tokens", "filtered": "content_filter"}[fault]))
        case "right":
            return right
    return _http(200, chat(CONTENTS[fault][0], thinking=fault == "thinking only"))


def _about(path: str) -> dict:
    entry = {"name": "judge:latest", "model": "judge:latest", "digest": DIGEST, "details": {}}
    return {
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [entry]},
        "/api/show": {"capabilities": ["completion"], "model_info": {"llama.context_length": 8192}},
        "/api/chat": {"done": True, "done_reason": "load", "message": {"role": "assistant", "content": ""}},
        "/v1/models": {"data": [{"id": "judge"}]},
    }.get(path, {})


def _ollama(text, thinking: bool = False, stop: str | None = "stop", tokens: float = 9) -> dict:
    message = {"role": "assistant", "content": text} | ({"thinking": "Let me see."} if thinking else {})
    return {"model": "judge", "message": message, "done": True, "done_reason": stop, "prompt_eval_count": tokens}


def _openai(text, thinking: bool = False, stop: str | None = "stop", tokens: float = 9) -> dict:
    message = {"role": "assistant", "content": text} | ({"reasoning_content": "Let me see."} if thinking else {})
    choice = {"index": 0, "message": message, "finish_reason": stop}
    return {"model": "judge", "choices": [choice], "usage": {"prompt_tokens": tokens}}


def _http(status: int, value: dict | str, more: str = "") -> bytes:
    body = (value if isinstance(value, str) else json.dumps(value)).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunked(body: bytes) -> bytes:
    """All of a body but the end of its trailers."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n" % (len(body), body)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    server = FaultServer(latency=float(sys.argv[1]), slots=int(sys.argv[2]))
    asyncio.run(server.serve(lambda: print(server.url, flush=True)))
