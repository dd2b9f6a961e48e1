"""The book's pairs through `instruct serve`, an OpenAI-compatible server on this machine, with a small random model."""

import json
import runpy
from pathlib import Path

import pytest
import requests
import torch
from ruamel.yaml import YAML
from serving.conftest import SERVE, make_system
from serving.in_thread import InThread

from instruct.core.errors import DataError
from instruct.core.files import write_json
from instruct.core.pairs import read_pairs
from instruct.core.records import Example, write_records
from instruct.pairs.rewriting import is_polite
from instruct.servers.openai import OpenAI
from instruct.serving.server import Served

ROOT = Path(__file__).parents[2]
MAIN = runpy.run_path(str(ROOT / "src/pairs.py"), run_name="stage")["main"]
PATHS = [Path(one) for one in ("data/split", "models/sft/best", "data/pairs", "metrics/preferred/pairs.json")]
TRAIN = [Example(id=f"r{i}", instruction=f"What is the capital of country {i}?", input="", output=f"City {i}.")
         for i in range(24)]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Some of its answers end by themselves, the others at the most tokens or at once."""
    system = make_system("sft", 2)
    with torch.no_grad():
        system.model.wte.weight[system.tokenizer.eos_id] *= 2.0
    running = InThread(Served({"sft": system}, SERVE, root=tmp_path_factory.mktemp("served")))
    yield running
    running.close()


@pytest.fixture
def place(tmp_path, monkeypatch, server, one_thread):
    """A folder with a split, in which the stage asks the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTRUCT_REPLIES", str(tmp_path / "replies.sqlite"))
    change(server.url, max_failed=0.9)
    held_out = [Example(id="held", instruction="Name a colour of the rainbow.", input="", output="Red.")]
    for part, examples in {"train": TRAIN, "val": held_out, "test": held_out}.items():
        write_records(tmp_path / f"data/split/{part}.json", examples)
    write_json(tmp_path / "data/split/checks.json", {})
    return tmp_path


def change(url, **rewrite):
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["runtime"] |= {"device": "cpu", "num_threads": 1}
    values["pairs"] |= {"source": "rewrite", "max_alike": 100.0}
    values["pairs"]["rewrite"] |= {"server": "openai", "max_tokens": 12, **rewrite}
    values["servers"]["openai"] |= {"url": f"{url}/v1", "model": "sft", "workers": 4}
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(values, file)


def asked_alone(server, example):
    """The server's answer to the book's question, by another client; None where it did not end by itself."""
    manner = "polite" if is_polite(example, 123) else "impolite"
    question = (
        f"Below are a task and its correct answer. Slightly rewrite the answer so that it is more {manner}. Keep its "
        "meaning, change as little as possible, and reply with the rewritten answer alone.\n\n"
        f"Task:\n{example.instruction}\n\nAnswer:\n{example.output}"
    )
    body = {"model": "sft", "messages": [{"role": "user", "content": question}], "max_tokens": 12, "temperature": 0}
    (choice,) = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["choices"]
    text = choice["message"]["content"].strip()
    return text if choice["finish_reason"] == "stop" and text else None


def test_each_answer_that_ended_becomes_a_pair_on_its_sides_and_the_others_are_counted(place, server):
    MAIN(*PATHS)
    expected = {one.id: asked_alone(server, one) for one in TRAIN}
    ended = {id_: text for id_, text in expected.items() if text}
    assert 4 <= len(ended) < len(TRAIN)
    pairs = [pair for part in ("train", "val") for pair in read_pairs(place / f"data/pairs/{part}.json")]
    assert {pair.parent for pair in pairs} == set(ended)
    for pair in pairs:
        example = TRAIN[int(pair.parent[1:])]
        sides = ended[pair.parent], example.output
        assert (pair.output, pair.rejected) == (sides if is_polite(example, 123) else sides[::-1])
        assert pair.origin == "rewrite" and pair.instruction == example.instruction
    found = json.loads((place / "metrics/preferred/pairs.json").read_text())
    assert found["without"] == {"unanswered": len(TRAIN) - len(ended)}
    assert (found["source"], found["server"]["model"], found["pairs"]) == ("rewrite", "sft", len(ended))


def test_a_second_run_asks_again_only_what_got_no_answer_and_gives_the_same_bytes(place, monkeypatch):
    MAIN(*PATHS)
    before = {path: path.read_bytes() for path in [*Path("data/pairs").iterdir(), PATHS[-1]]}
    unanswered = json.loads(before[PATHS[-1]])["without"]["unanswered"]
    asked, ask = [], OpenAI.ask
    monkeypatch.setattr(OpenAI, "ask", lambda self, one: asked.append(one) or ask(self, one))
    MAIN(*PATHS)
    assert {path: path.read_bytes() for path in before} == before
    assert 0 < len(asked) == unanswered < len(TRAIN)


def test_too_many_answers_that_were_cut_off_end_the_stage_with_the_reason(place, server):
    change(server.url, max_failed=0.0)
    with pytest.raises(DataError, match=r"^\d+ of 24 answers were not rewritten.*max_failed.*server openai$"):
        MAIN(*PATHS)
    assert not Path("data/pairs").exists()
