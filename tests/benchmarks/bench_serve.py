"""Times the server on loopback against llama-server and a plain transformers + FastAPI loop, in turn.

instruct export gguf --type f32 --check 0 && instruct export gguf --type q8_0 --check 0
python tests/benchmarks/bench_serve.py
    (llama-server runs build/export/gguf-*/model.gguf, the weights of models/sft/best, or what --gguf NAME=PATH says)
python tests/benchmarks/bench_serve.py --until-end        (answers end by themselves; a model repeats itself beyond)
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import harness
import httpx
import outcome
import psutil

CONTESTANTS = Path(__file__).with_name("serve_contestants.py")
EXPORTS = {kind: Path(f"build/export/gguf-{kind}/model.gguf") for kind in ("f32", "q8_0")}
ONCE = "transformers"  # answers one request after the other, so a round of it takes longer than all others together
LEAST = 4  # answers in a round
OURS = [sys.executable, "-c", "from instruct.cli import run; run()", "serve", "--system", "sft"]


def main() -> None:
    """All contestants at each number of clients, in turns whose order is drawn."""
    options = read_options()
    prompts = read_prompts()
    commands = {outcome.OURS: [*OURS, "--port"], **rivals(options)}
    if options.flat:
        summary: dict[str, Any] = measure_memory(commands[outcome.OURS], prompts, options)
    else:
        summary = race(commands, prompts, options)
    outcome.write_summary(summary, options.json)


def read_options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--until-end", action="store_true", help="answers have --tokens at most, not always")
    parser.add_argument(
        "--requests", type=int, default=1, help=f"of each client in a round, which has {LEAST} at least"
    )
    parser.add_argument("--rounds", type=int, default=3, help=f"{ONCE} takes part in the first only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", action="append", metavar="NAME=PATH", help="default: both types in build/export")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/sft/best"))
    parser.add_argument("--only", nargs="+", help="names of contestants")
    parser.add_argument("--flat", type=int, default=0, metavar="REQUESTS")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.gguf is None:
        options.gguf = [f"{kind}={path}" for kind, path in EXPORTS.items() if path.is_file()]
    return options


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
    found = {ONCE: [*start, "transformers", str(options.checkpoint), threads]}
    for one in options.gguf:
        name, _, path = one.partition("=")
        found[f"llama-server {name}"] = [*start, "llamacpp", path, threads]
    if not options.gguf:
        harness.say("llama-server takes no part: `instruct export gguf` has written none, and no --gguf is given")
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
            asyncio.run(one_round(url, prompts[:2], 2, 1, options))
        for turn in range(options.rounds):
            for clients in options.clients:
                each = max(options.requests, LEAST // clients)
                share = rng.sample(prompts, min(len(prompts), clients * each))
                here = sorted(name for name in urls if name != ONCE or turn == 0)
                for name in rng.sample(here, len(here)):
                    told = asyncio.run(one_round(urls[name], share, clients, each, options))
                    rounds.append({"name": name, "clients": clients, "round": turn, **told})
                    harness.say(f"{name:20} {clients:3} clients: {told['tokens_per_s']:8.1f} tokens/s")
    told = {"tokens": options.tokens, "until_end": options.until_end, "threads": options.threads}
    summary = summarise(rounds) | {"rounds": rounds} | told
    print_table(summary)
    return summary


def summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The machine, and for each number of clients every contestant's rates and times to the first token.

    `ratio` is how many times as many tokens a second ours gives; where the rounds' spread could turn the order it is
    absent, and `withheld` says why.
    """
    counts = sorted({one["clients"] for one in rounds})
    return {"machine": outcome.machine(), "clients": {str(count): _contestants(rounds, count) for count in counts}}


def _contestants(rounds: Sequence[Mapping[str, Any]], clients: int) -> dict[str, dict[str, Any]]:
    own = [one for one in rounds if one["clients"] == clients]
    rates = {name: [one["tokens_per_s"] for one in own if one["name"] == name] for name in {one["name"] for one in own}}
    found = {}
    for name in sorted(rates, key=lambda name: (name != outcome.OURS, name)):
        firsts = sorted(first for one in own if one["name"] == name for first in one["first_token_s"])
        found[name] = {
            "tokens_per_s": statistics.median(rates[name]),
            "min_tokens_per_s": min(rates[name]),
            "max_tokens_per_s": max(rates[name]),
            "first_token_s": statistics.median(firsts),
            "first_token_95_s": firsts[min(int(0.95 * len(firsts)), len(firsts) - 1)],
            **_ratio(rates, name),
        }
    return found


def _ratio(rates: Mapping[str, Sequence[float]], name: str) -> dict[str, Any]:
    ours = rates.get(outcome.OURS)
    if name == outcome.OURS or not ours:
        return {}
    if outcome.could_turn([1 / rate for rate in ours], [1 / rate for rate in rates[name]]):
        return {"withheld": "the rounds' spreads overlap: too wide to say which is faster"}
    return {"ratio": statistics.median(ours) / statistics.median(rates[name])}


async def one_round(
    url: str, prompts: list[str], clients: int, requests: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Tokens per second, and each request's seconds until its first token."""
    firsts, answers = list[float](), list[str]()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # llama-server may close one unasked
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def work(place: int) -> None:
            for i in range(requests):
                first, answer = await ask(client, prompts[(place * requests + i) % len(prompts)], options)
                firsts.append(first)
                answers.append(answer)

        started = time.perf_counter()
        await asyncio.gather(*(work(place) for place in range(clients)))
        seconds = time.perf_counter() - started
    tokens = len(answers) * options.tokens
    if options.until_end:  # without the end token, which only some servers count
        tokenizer = tokenizer_of(options.checkpoint)
        tokens = sum(len(tokenizer.encode(answer)) for answer in answers)
    return {"tokens_per_s": tokens / seconds, "first_token_s": firsts, "tokens": tokens}


@cache
def tokenizer_of(checkpoint: Path) -> Any:
    """The tokenizer of the model that all servers run."""
    from instruct.text.tokenizer import load_tokenizer

    eos_id = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return load_tokenizer(checkpoint / "tokenizer.json", eos_id)


async def ask(client: httpx.AsyncClient, prompt: str, options: argparse.Namespace) -> tuple[float, str]:
    """Seconds until the first token of an answer, and the answer, which has all tokens that were asked for or ends."""
    body = {
        "model": "sft",
        "prompt": prompt,
        "max_tokens": options.tokens,
        "temperature": 0,
        "ignore_eos": not options.until_end,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first, count, pieces = time.perf_counter(), 0.0, 0, list[str]()
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            first = first or time.perf_counter() - started
            news = json.loads(line[6:])
            pieces += [choice["text"] for choice in news["choices"]]
            count = (news.get("usage") or {}).get("completion_tokens", count)
    assert options.until_end or count == options.tokens, f"the server counts {count} of {options.tokens} tokens"
    return first, "".join(pieces)


def print_table(summary: Mapping[str, Any]) -> None:
    """The machine, and a table in Markdown: medians over the rounds, from the slowest to the fastest."""
    print(outcome.describe_machine(summary["machine"]))
    print("| clients | server | tokens/s | from to | first token, median s | 95 % s | ours gives |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for clients, contestants in summary["clients"].items():
        for name, one in contestants.items():
            ratio = f"{one['ratio']:.2f} x" if "ratio" in one else "unclear" if "withheld" in one else ""
            spread = f"{one['min_tokens_per_s']:.1f} to {one['max_tokens_per_s']:.1f}"
            firsts = f"{one['first_token_s']:.3f} | {one['first_token_95_s']:.3f}"
            print(f"| {clients} | {name} | {one['tokens_per_s']:.1f} | {spread} | {firsts} | {ratio} |")


def measure_memory(command: list[str], prompts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Our server's resident memory after each tenth of many requests."""
    sizes, few = [], argparse.Namespace(tokens=8, until_end=False)
    with served(command) as (url, process):
        for tenth in range(10):
            each = max(options.flat // 10 // 32, 1)
            asyncio.run(one_round(url, prompts, 32, each, few))
            sizes.append(process.memory_info().rss / 1e6)
            harness.say(f"{(tenth + 1) * each * 32} requests: {sizes[-1]:.0f} MB")
    growth = max(sizes[1:]) / sizes[1] - 1
    harness.say(f"memory grew by {growth:.1%} after the first fifth")
    return {"machine": outcome.machine(), "requests": options.flat, "mb": sizes, "growth": growth}


if __name__ == "__main__":
    main()
