"""Minutes of real use: the whole test set through the server, and clients that come, go and die."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from generation.conftest import GENERATE
from serving.conftest import ALPACA, SERVE
from serving.in_thread import InThread

from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.generation.weights import make_ready
from instruct.model.pretrained import load_trained
from instruct.serving.server import Served
from instruct.serving.systems import System

ROOT = Path(__file__).parents[2]
SECONDS, REQUESTS = 120, 10_000
QUESTIONS = [f"Tell me about the number {i}, the river and the sea." for i in range(40)]
pytestmark = pytest.mark.slow


@pytest.fixture
def real():
    """The committed SFT model behind a server, and the answers that the pipeline wrote."""
    responses, checkpoint = ROOT / "data/responses.json", ROOT / "models/sft/best"
    if not responses.is_file() or not checkpoint.is_dir():
        pytest.skip("data/responses.json or models/sft/best is not here: `dvc repro`, or `dvc pull`")
    runtime = start_runtime(RuntimeParams(device="cpu", precision="auto", num_threads=2))
    model, tokenizer = load_trained(checkpoint, runtime.device)
    system = System(
        name="sft",
        digest="",
        model=make_ready(model, "fp32", runtime),
        tokenizer=tokenizer,
        template=ALPACA,
        template_name="alpaca",
        runtime=runtime,
        params=GENERATE,
    )
    server = InThread(Served({"sft": system}, SERVE))
    yield server, json.loads(responses.read_text(encoding="utf-8"))
    server.close()


@pytest.mark.parametrize("together", [1, 32])
def test_answers_through_the_server_are_those_of_the_pipeline(real, together):
    server, responses = real
    with httpx.Client(base_url=server.url, timeout=600) as client:

        def ask(one):
            body = {"model": "sft", "messages": [{"role": "user", "content": one["instruction"]}], "max_tokens": 64}
            reply = client.post("/v1/chat/completions", json={**body, "input": one["input"]}).json()
            return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]

        with ThreadPoolExecutor(together) as pool:
            got = list(pool.map(ask, responses))
    assert got == [(one["response"], one["response_tokens"]) for one in responses]


def test_a_thousand_at_once_are_answered_or_told_to_come_again(serving, systems, offline):
    server = serving(patience=120.0)  # so that a busy machine refuses nobody for being slow
    texts = [f"Tell me about number {i}" for i in range(20)]
    expected = {text: offline(systems["sft"], {"0": ALPACA.render(text)})["0"] for text in texts}

    async def one(client, text):
        body = {"model": "sft", "messages": [{"role": "user", "content": text}]}
        return text, await client.post("/v1/chat/completions", json=body)

    async def everyone():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
            return await asyncio.gather(*(one(client, texts[i % 20]) for i in range(1000)))

    replies = asyncio.run(everyone())
    assert {reply.status_code for _, reply in replies} == {200, 429}
    answered = [(text, reply) for text, reply in replies if reply.status_code == 200]
    assert len(answered) >= 256
    for text, reply in answered:
        assert reply.json()["choices"][0]["message"]["content"] == expected[text]


CLIENT = """
import sys, httpx
body = {"model": "sft", "messages": [{"role": "user", "content": "river"}], "max_tokens": 200, "stream": True}
with httpx.stream("POST", sys.argv[1] + "/v1/chat/completions", json=body, timeout=60) as reply:
    for line in reply.iter_lines():
        pass
"""


async def use(client, rng, expected, until, finished):
    """One client: asks at random, listens to the end or hangs up, and compares what came whole."""
    while time.monotonic() < until:
        system, text, count = rng.choice(list(expected))
        body = {"model": system, "messages": [{"role": "user", "content": text}], "max_tokens": count, "stream": True}
        leaves = rng.random() < 0.3
        said, pieces, ended = "", 0, False
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code == 429:
                await asyncio.sleep(rng.random())
                continue
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                ended = ended or line == "data: [DONE]"
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                    pieces += 1
                if leaves and pieces > rng.randint(1, 8):
                    break
        if ended:
            assert said == expected[system, text, count]
            finished.append(said)


def test_random_clients_hang_ups_and_kills_change_no_finished_answer(serving, systems, offline):
    server = serving(slots=8, queue=16, cache_tokens=2048)
    texts = ["sun and moon", "river", "a tree by the lake " * 4, "snow"]
    expected = {
        (name, text, count): offline(one, {"0": one.template.render(text)}, max_new_tokens=count)["0"]
        for name, one in systems.items()
        for text in texts
        for count in (3, 17, 60)
    }
    finished: list[str] = []
    until = time.monotonic() + SECONDS

    async def everyone():
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            users = [use(client, random.Random(i), expected, until, finished) for i in range(40)]
            await asyncio.gather(*users, killers())

    async def killers():
        while time.monotonic() < until:
            one = subprocess.Popen([sys.executable, "-c", CLIENT, server.url], env=dict(os.environ))
            await asyncio.sleep(1.5)
            one.kill()
            one.wait()

    asyncio.run(everyone())
    assert len(set(finished)) == len(set(expected.values())), "every answer was finished at least once"
    left = time.monotonic() + 30
    while server.served.engine.unfinished and time.monotonic() < left:
        time.sleep(0.05)
    assert (server.served.engine.unfinished, server.served.engine.active) == (0, 0)


def test_memory_is_flat_over_ten_thousand_requests(served):
    """Chats and completions of many lengths, a fifth of them refused or hung up on; the first tenth warms up."""
    process, url = served
    memory, sizes = psutil.Process(process.pid).memory_info, []

    async def one(client, place):
        text = " ".join(QUESTIONS[place % 7 :: 7]) + f" {place}"
        body = {"model": "sft", "prompt": text, "max_tokens": 1 + place % 6, "logprobs": place % 3}
        if place % 10 == 0:
            return (await client.post("/v1/completions", json={**body, "no_such": 1})).status_code == 400
        if place % 10 == 1:
            async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as reply:
                return reply.status_code == 200  # and hangs up
        reply = await client.post("/v1/completions", json=body)
        return reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] > 0

    async def everyone():
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            for start in range(0, REQUESTS, 20):
                assert all(await asyncio.gather(*(one(client, start + i) for i in range(20))))
                if start >= REQUESTS // 10 and start % 500 == 0:
                    sizes.append(memory().rss)

    asyncio.run(everyone())
    assert max(sizes) <= 1.05 * sizes[0], [size // 2**20 for size in sizes]
