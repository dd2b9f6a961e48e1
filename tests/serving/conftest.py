"""A small random model behind a real server in a thread of this process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from generation.conftest import GENERATE, GPT2_SMALL, make_model
from serving.in_thread import InThread

from instruct.core.runtime import Runtime
from instruct.generation.decode import generate
from instruct.model.checkpoint import save_checkpoint
from instruct.serving.server import Served
from instruct.serving.settings import ServeParams
from instruct.serving.systems import System
from instruct.text.encoding import Prompt
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A project with an SFT model and no other; its backbone is a small random one."""
    folder = tmp_path_factory.mktemp("folder")
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["model"]["backbone"] = "tiny"
    values["serve"] |= {"port": 0, "max_tokens": 12}
    values["runtime"]["num_threads"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "models").mkdir()
    config = {"vocab_size": 50257, "n_positions": 64, "n_embd": 64, "n_layer": 1, "n_head": 1}
    tiny = {"family": "gpt2", "format": "random", "licence": "none", "about": "tiny", "files": [], "config": config}
    (folder / "models/backbones.yaml").write_text(yaml.safe_dump({"tiny": tiny}))
    save_checkpoint(make_model(GPT2_SMALL, 2), gpt2_tokenizer(), folder / "models/sft/best")
    return folder


@contextmanager
def instruct_serve(folder: Path, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`instruct serve` of that project's SFT model in its own process, which first runs a line, and its address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", f"{before}\nfrom instruct.cli import run; run()", "serve", "--system", "sft"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=folder, env=environment) as process:
        try:
            yield process, process.stdout.readline().split(": ")[0]
        finally:
            process.kill()


@pytest.fixture
def served(folder) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """See `instruct_serve`."""
    with instruct_serve(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def each_on_one_thread(one_thread):
    """Models so small that a second thread only waits for the first."""
