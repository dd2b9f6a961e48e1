"""A server of Ollama's and OpenAI's chat API with a set latency and number of slots, and faults at a set rate.

A prompt holds `item N`. What befalls its k-th attempt is drawn from N and k alone, so a run can be told beforehand;
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
HUGE = "9" * 150_000
# What a model says in place of a score, and whether that is a problem of the reply itself.
CONTENTS = {
    "empty": ("", "the reply is empty"),
    "thinking only": ("", "thoughts only"),
    "text around": ("Well: I would say the score is 70, as most is right.", ""),
    "fraction": ("85/100", ""),
    "in words": ("about eighty", ""),
    "too high": ("850", ""),
    "negative": ("\u22121", ""),
    "decimal": ("3.5", ""),
    "two numbers": ("70 or 80", ""),
    "other digits": ("\u0668\u0665", ""),
    "huge": (HUGE, "150000 characters"),
}
TRANSIENT = ("refuse", "reset", "reset in body", "429", "500", "503", "error in 200", "cut lines", "cut chunks")
SILENT = ("stall", "drip")
FAULTS = (*TRANSIENT * 4, *CONTENTS, *SILENT)

_ITEM = re.compile(r"item (\d+)")


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
        chat = _ollama if path == "/api/chat" else _openai
        match fault:
            case "refuse" | "reset":
                _reset(writer)
                if fault == "refuse":
                    await self._refuse_for_a_moment()
                return False
            case "reset in body":
                whole = _http(200, chat(right_text(item)))
                writer.write(whole[:-20])
                await writer.drain()
                _reset(writer)
                return False
            case "429" | "500" | "503":
                more = "Retry-After: 0\r\n" if fault == "429" else ""
                writer.write(_http(int(fault), {"error": {"message": "busy", "code": int(fault)}}, more))
            case "error in 200":
                writer.write(_http(200, {"error": "the runner crashed"}))
            case "cut lines":
                lines = [
                    {"message": {"role": "assistant", "content": part}, "done": False} for part in ("{", '"score"')
                ]
                writer.write(_http(200, "\n".join(map(json.dumps, lines))))
            case "cut chunks":
                part = json.dumps(chat(right_text(item)))[:30].encode()
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(part), part))
                return False
            case "stall":
                await asyncio.sleep(self.stall)
                return False
            case "drip":  # never silent for long, never done
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(int(self.stall / 0.02)):
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.02)
                return False
            case "right":
                writer.write(_http(200, chat(right_text(item))))
            case _:
                writer.write(_http(200, chat(CONTENTS[fault][0], thinking=fault == "thinking only")))
        await writer.drain()
        return True


def _about(path: str) -> dict:
    entry = {"name": "judge:latest", "model": "judge:latest", "digest": DIGEST, "details": {}}
    return {
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [entry]},
        "/api/show": {"capabilities": ["completion"], "model_info": {"llama.context_length": 8192}},
        "/api/chat": {"done": True, "done_reason": "load", "message": {"role": "assistant", "content": ""}},
        "/v1/models": {"data": [{"id": "judge"}]},
    }.get(path, {})


def _ollama(text: str, thinking: bool = False) -> dict:
    message = {"role": "assistant", "content": text} | ({"thinking": "Let me see."} if thinking else {})
    return {"model": "judge", "message": message, "done": True, "done_reason": "stop", "prompt_eval_count": 9}


def _openai(text: str, thinking: bool = False) -> dict:
    message = {"role": "assistant", "content": text} | ({"reasoning_content": "Let me see."} if thinking else {})
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"model": "judge", "choices": [choice], "usage": {"prompt_tokens": 9}}


def _http(status: int, value: dict | str, more: str = "") -> bytes:
    body = (value if isinstance(value, str) else json.dumps(value)).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    server = FaultServer(latency=float(sys.argv[1]), slots=int(sys.argv[2]))
    asyncio.run(server.serve(lambda: print(server.url, flush=True)))
