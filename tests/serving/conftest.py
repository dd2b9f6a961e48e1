"""A small random model behind a real server in a thread of this process."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from generation.conftest import GENERATE, GPT2_SMALL, make_model

from instruct.core.runtime import Runtime
from instruct.generation.decode import generate
from instruct.serving.server import InThread, Served
from instruct.serving.settings import ServeParams
from instruct.serving.systems import System
from instruct.text.encoding import Prompt
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer

ALPACA = TEMPLATES["alpaca"]
SERVE = ServeParams(
    host="127.0.0.1",
    port=0,
    key_variable="INSTRUCT_API_KEY",
    slots=32,
    cache_tokens=8192,
    queue=256,
    max_tokens=12,
    max_choices=16,
    body_bytes=100_000,
    requests_per_minute=0,
    patience=5.0,
    grace=20.0,
    policy="",
    max_similarity=90.0,
)


def make_system(name: str, seed: int, template: str = "alpaca") -> System:
    return System(
        name=name,
        digest=f"digest-of-{name}",
        model=make_model(GPT2_SMALL, seed),
        tokenizer=gpt2_tokenizer(),
        template=TEMPLATES[template],
        template_name=template,
        runtime=Runtime(torch.device("cpu"), torch.float32),
        params=GENERATE,
    )


@pytest.fixture(scope="session")
def systems() -> dict[str, System]:
    return {"base": make_system("base", 1), "sft": make_system("sft", 2), "dpo": make_system("dpo", 3, "phi3")}


@pytest.fixture(scope="session")
def server(systems, tmp_path_factory) -> Iterator[InThread]:
    running = InThread(Served(systems, SERVE, root=tmp_path_factory.mktemp("project")))
    yield running
    running.close()


@pytest.fixture
def serving(systems, tmp_path) -> Iterator[Callable[..., InThread]]:
    """A server of the test's own, with other settings."""
    opened = []

    def open_one(key: str = "", **changes) -> InThread:
        opened.append(InThread(Served(systems, replace(SERVE, **changes), key, root=tmp_path)))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def offline():
    """The answers of the engine without a server, which a test compares with."""

    def answer(system: System, prompts: dict[str, Prompt], **changes) -> dict[str, str]:
        template = system.template
        got = generate(
            system.model,
            system.tokenizer,
            prompts,
            prefix=template.prefix_pieces,
            stop_strings=template.stop_strings,
            params=replace(GENERATE, **changes),
            runtime=system.runtime,
            shown=False,
        )
        return {name: one.text for name, one in got.items()}

    return answer


@pytest.fixture(autouse=True)
def each_on_one_thread(one_thread):
    """Models so small that a second thread only waits for the first."""
