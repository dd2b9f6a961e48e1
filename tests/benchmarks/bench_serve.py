"""Times the server on loopback against llama-server and a plain transformers + FastAPI loop, in turn.

python tests/benchmarks/bench_serve.py --gguf f32=build/f32.gguf --gguf q8_0=build/q8_0.gguf
    (the GGUF files hold the weights of models/sft/best; without them llama-server does not take part)
python tests/benchmarks/bench_serve.py --flat 10000       (memory of our server over so many requests)
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import httpx
import outcome
import psutil

CONTESTANTS = Path(__file__).with_name("serve_contestants.py")
OURS = [sys.executable, "-c", "from instruct.cli import run; run()", "serve", "--system", "sft"]


def main() -> None:
    """All contestants at each number of clients, in turns whose order is drawn."""
    options = read_options()
    prompts = read_prompts()
    commands = {"ours": [*OURS, "--port"], **rivals(options)}
    if options.flat:
        summary: dict[str, Any] = measure_memory(commands["ours"], prompts, options)
    else:
        summary = race(commands, prompts, options)
    outcome.write_summary(summary, options.json)


def read_options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/sft/best"))
    parser.add_argument("--only", nargs="+", help="names of contestants")
    parser.add_argument("--flat", type=int, default=0, metavar="REQUESTS")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def read_prompts() -> list[str]:
    """The prompts of the test set, as the template renders them."""
    from instruct.core.records import read_examples
    from instruct.text.prompts import TEMPLATES

    examples = read_examples(Path("data/split/test.json"))
    return [TEMPLATES["alpaca"].render(one.instruction, one.input) for one in examples]


def rivals(options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each other contestant, which ends with its port."""
    start = [sys.executable, str(CONTESTANTS)]
    threads = str(options.threads)
    found = {"transformers": [*start, "transformers", str(options.checkpoint), threads]}
    for one in options.gguf:
        name, _, path = one.partition("=")
        found[f"llama-server {name}"] = [*start, "llamacpp", path, threads]
    if not options.gguf:
        harness.say("llama-server takes no part: no --gguf is given")
    return {name: command for name, command in found.items() if not options.only or name in options.only}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def served(command: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """A server, once it answers."""
    port = free_port()
    with subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(1200):
                assert process.poll() is None, f"{command[2]} has ended"
                try:
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield url, psutil.Process(process.pid)
        finally:
            process.kill()


def race(commands: Mapping[str, list[str]], prompts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Each contestant's rounds; all servers are up, and only one is asked at a time."""
    from contextlib import ExitStack

    rng, rounds = random.Random(1), list[dict[str, Any]]()
    with ExitStack() as stack:
        urls = {name: stack.enter_context(served(command))[0] for name, command in commands.items()}
        for url in urls.values():
            asyncio.run(one_round(url, prompts[:2], 2, 1, options.tokens))
        for turn in range(options.rounds):
            for clients in options.clients:
                for name in rng.sample(sorted(urls), len(urls)):
                    share = rng.sample(prompts, min(len(prompts), clients * options.requests))
                    told = asyncio.run(one_round(urls[name], share, clients, options.requests, options.tokens))
                    rounds.append({"name": name, "clients": clients, "round": turn, **told})
                    harness.say(f"{name:20} {clients:3} clients: {told['tokens_per_s']:8.1f} tokens/s")
    print_table(rounds)
    return {"rounds": rounds, "tokens": options.tokens}


async def one_round(url: str, prompts: list[str], clients: int, requests: int, tokens: int) -> dict[str, Any]:
    """Tokens per second, and each request's seconds until its first token."""
    firsts, counts = list[float](), list[int]()
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def work(place: int) -> None:
            for i in range(requests):
                first, count = await ask(client, prompts[(place * requests + i) % len(prompts)], tokens)
                firsts.append(first)
                counts.append(count)

        started = time.perf_counter()
        await asyncio.gather(*(work(place) for place in range(clients)))
        seconds = time.perf_counter() - started
    return {"tokens_per_s": sum(counts) / seconds, "first_token_s": firsts, "tokens": sum(counts)}


async def ask(client: httpx.AsyncClient, prompt: str, tokens: int) -> tuple[float, int]:
    """Seconds until the first token of an answer, and how many tokens the server says that it has."""
    body = {
        "model": "sft",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.perf_counter() - started
            if usage := json.loads(line[6:]).get("usage"):
                count = usage["completion_tokens"]
    assert count, "the server counts no tokens"
    return first, count


def print_table(rounds: list[dict[str, Any]]) -> None:
    """Medians over the rounds."""
    print(f"{'':20} {'clients':>7} {'tokens/s':>9} {'first token, median':>20} {'95 %':>8}")
    for clients in sorted({one["clients"] for one in rounds}):
        for name in dict.fromkeys(one["name"] for one in rounds):
            own = [one for one in rounds if (one["name"], one["clients"]) == (name, clients)]
            firsts = sorted(first for one in own for first in one["first_token_s"])
            rate = statistics.median(one["tokens_per_s"] for one in own)
            late = firsts[min(int(0.95 * len(firsts)), len(firsts) - 1)]
            print(f"{name:20} {clients:7} {rate:9.1f} {statistics.median(firsts):18.3f} s {late:6.3f} s")


def measure_memory(command: list[str], prompts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Our server's resident memory after each tenth of many requests."""
    sizes = []
    with served(command) as (url, process):
        for tenth in range(10):
            each = max(options.flat // 10 // 32, 1)
            asyncio.run(one_round(url, prompts, 32, each, 8))
            sizes.append(process.memory_info().rss / 1e6)
            harness.say(f"{(tenth + 1) * each * 32} requests: {sizes[-1]:.0f} MB")
    growth = max(sizes[1:]) / sizes[1] - 1
    harness.say(f"memory grew by {growth:.1%} after the first fifth")
    return {"mb": sizes, "growth": growth}


if __name__ == "__main__":
    main()
