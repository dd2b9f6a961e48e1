"""ask, chat and serve as a person starts them."""

import gc
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import warm
from generation.conftest import GPT2_SMALL, make_model
from serving.conftest import SERVE, instruct_serve, make_system

from instruct.core.errors import CheckpointError, DataError, InstructError, ParamsError
from instruct.core.locks import lock
from instruct.model.checkpoint import save_checkpoint
from instruct.model.kernels import kernels
from instruct.serving import ask as asking
from instruct.serving import open_chat
from instruct.serving.ahead import open_alone
from instruct.serving.chat import Chat
from instruct.serving.feedback import append
from instruct.serving.server import Served, bind, key_for
from instruct.serving.start import with_options
from instruct.serving.systems import available, choose, digest_of, open_system
from instruct.serving.talking import Manner, Talker
from instruct.text.prompts import Turn
from instruct.text.tokenizer import gpt2_tokenizer

ROOT = Path(__file__).parents[2]
WITH_SOURCE = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
QUESTION = "Name the largest river."


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_ask_says_what_the_engine_says_and_the_newest_model_is_asked(here, offline):
    system = open_system("sft")
    expected = offline(system, {"0": system.template.render(QUESTION, "In Asia")}, max_new_tokens=12)["0"]
    assert "".join(asking.ask(QUESTION, "In Asia", [], every=False)) == expected + "\n"
    several = "".join(asking.ask(QUESTION, "In Asia", [], every=True))
    assert several.startswith("base:\n") and several.endswith(f"\n\nsft:\n{expected}\n")


def test_ask_tells_beside_the_answer_that_it_is_cut_and_by_which_setting(here, caplog):
    list(asking.ask(QUESTION, "", [], every=False))
    (told,) = caplog.messages
    assert "serve.max_tokens" in told and "12" in told


@pytest.mark.parametrize(
    ("system", "trained", "told"),
    [("sft", "phi3", 1), ("sft", "alpaca", 0), ("base", "phi3", 0), ("sft", "{", 0), ("sft", None, 0)],
)
def test_a_model_that_was_trained_with_another_prompt_is_told_of(
    here, tmp_path, monkeypatch, caplog, system, trained, told
):
    for name in ("params.yaml", "models"):
        (tmp_path / name).symlink_to(here / name)
    if trained:
        prompt = f"params: {{params.yaml: {{prompt: {{template: {trained}, system: default}}}}}}"
        (tmp_path / "dvc.lock").write_text(f"stages: {{train: {{{prompt}}}}}\n")
    monkeypatch.chdir(tmp_path)
    open_alone(system)
    assert ["prompt.template" in line for line in caplog.messages] == [True] * told


def test_ask_streams(here):
    pieces = [piece for piece in asking.ask(QUESTION, "", [], every=False) if piece]
    assert len(pieces) > 5


@pytest.fixture(scope="module")
def afterwards(folder):
    """Which of the heavy modules `ask` has imported, and through how many objects it has looked for garbage."""
    code = """
import gc, json, sys
looks = [0]
gc.callbacks.append(lambda phase, _: "torch" in sys.modules and looks.append(len(gc.get_objects())))
from instruct.serving.ask import ask
list(ask("Hello", "", [], every=False))
gc.collect()
heavy = "fastapi", "pydantic", "uvicorn", "scipy", "pandas", "matplotlib", "dvc", "torch._dynamo", "transformers"
print(json.dumps([[name for name in heavy if name in sys.modules], max(looks), gc.isenabled()]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=WITH_SOURCE, cwd=folder, check=True)
    return json.loads(done.stdout)


def test_ask_imports_no_web_stack_and_no_judge(afterwards):
    assert afterwards[0] == []


def test_ask_looks_for_no_garbage_in_torch(afterwards):
    assert afterwards[1] < 100_000 and afterwards[2]


def test_one_model_is_in_memory_at_a_time(here, monkeypatch):
    alive, at_once = [], []

    def opened(name):
        at_once.append(sum(model() is not None for model in alive))
        system = open_alone(name)
        alive.append(weakref.ref(system.model))
        return system

    monkeypatch.setattr(asking, "open_alone", opened)
    gc.disable()
    try:
        assert "sft:" in "".join(asking.ask("Name a bird.", "", [], every=True))
    finally:
        gc.enable()
    assert at_once == [0, 0]


@pytest.mark.parametrize(
    ("question", "names", "every", "named"), [("Hello", ["sft"], True, "--all"), (" \n", [], False, "question")]
)
def test_ask_refuses_what_it_would_ignore_and_nothing_to_answer(here, question, names, every, named):
    with pytest.raises(ParamsError, match=named):
        list(asking.ask(question, "", names, every=every))


def test_refusals_do_not_wait_for_torch(here, tmp_path):
    code = """
import os, sys
from instruct.core.errors import InstructError
from instruct.serving.ask import ask
from instruct.serving.open_chat import open_chat

def refused(make):
    try:
        list(make())
    except InstructError:
        return "torch" not in sys.modules

found = [refused(lambda: ask("", "", [], every=False)), refused(lambda: ask("Hi", "", ["sfd"], every=False))]
found += [refused(lambda: open_chat("dpo", None))]
print(found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=WITH_SOURCE, check=True)
    assert done.stdout.strip() == "[True, True, True]"


def test_systems_that_are_not_here_are_named_with_what_makes_them(here, tmp_path, monkeypatch):
    assert available() == ["base", "sft"]
    with pytest.raises(CheckpointError, match=r"models/dpo/best.*dvc exp run -S 'prefer\.methods=\[dpo\]'"):
        choose(["dpo"])
    with pytest.raises(ParamsError, match="sft"):
        choose(["sfd"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="models/sft/best"):
        choose([])


def test_a_digest_tells_other_weights(here, tmp_path, monkeypatch):
    first = digest_of("sft")
    save_checkpoint(make_model(GPT2_SMALL, 3), gpt2_tokenizer(), tmp_path / "models/sft/best")
    monkeypatch.chdir(tmp_path)
    assert digest_of("sft") != first == open_digest(here)


def open_digest(folder):
    os.chdir(folder)
    return open_system("sft").digest


def test_chat_through_a_pipe_answers_each_line_and_goes_on_after_mistakes(here, tmp_path, monkeypatch):
    saved = tmp_path / "said.json"
    lines = [QUESTION, "/set temperature 9", "/set seed x", "/what", "/system dpo", "/again", "/system base", QUESTION]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, f"/save {saved}", "/quit", "never read"])))
    out = "".join(open_chat.open_chat("", None)).splitlines()
    system = open_system("sft")
    assert "temperature=9.0" in out[1] and "seed" in out[2] and "/what" in out[3] and "models/dpo/best" in out[4]
    said = json.loads(saved.read_text())
    assert [one["content"] for one in said["messages"] if one["role"] == "user"] == [QUESTION, QUESTION]
    assert said["system"] == "base" and said["settings"]["seed"] == system.params.seed + 1
    assert "never read" not in "".join(out)


@pytest.mark.parametrize("template", ["phi3", "chatml"])
def test_chat_remembers_where_the_template_knows_turns(template, offline):
    system = make_system("dpo", 3, template)
    manner = Manner(max_tokens=8, temperature=0.0, seed=1)
    chat = Chat(talker=Talker(system), manner=manner, open_named=lambda name: Talker(system))
    first, second = ("".join(chat.run([one])).rstrip("\n") for one in ("Hello", "And now?"))
    asked = [Turn("Hello", "", first), Turn("And now?")]
    assert first == offline(system, {"0": system.template.prompt([Turn("Hello")])}, max_new_tokens=8)["0"]
    assert second == offline(system, {"0": system.template.prompt(asked)}, max_new_tokens=8)["0"]
    assert second != offline(system, {"0": system.template.prompt([Turn("And now?")])}, max_new_tokens=8)["0"]


@pytest.mark.parametrize(("option", "host", "port"), [("--port", None, 70_000), ("--host", "", None)])
def test_a_wrong_option_is_named_as_it_was_typed(option, host, port):
    with pytest.raises(ParamsError, match=f"^{option} "):
        with_options(SERVE, host, port)
    assert with_options(SERVE, "::1", 0) == replace(SERVE, host="::1", port=0)


def test_beyond_this_machine_it_takes_a_key(monkeypatch):
    monkeypatch.delenv("INSTRUCT_API_KEY", raising=False)
    assert key_for(SERVE) == ""
    with pytest.raises(ParamsError, match="INSTRUCT_API_KEY"):
        key_for(replace(SERVE, host="0.0.0.0"))
    monkeypatch.setenv("INSTRUCT_API_KEY", "abc")
    assert key_for(replace(SERVE, host="0.0.0.0")) == "abc"


def test_a_port_in_use_and_a_host_that_is_not_ours_are_refused():
    with bind(SERVE) as first:
        port = first.getsockname()[1]
        with pytest.raises(InstructError, match=str(port)):
            bind(replace(SERVE, port=port))
    with pytest.raises(InstructError, match=r"192\.0\.2\.1"):
        bind(replace(SERVE, host="192.0.2.1"))


def test_a_cache_without_room_for_the_template_is_refused(systems):
    with pytest.raises(ParamsError, match="cache_tokens"):
        Served(systems, replace(SERVE, cache_tokens=40))


def test_bytes_that_are_no_text_are_refused_and_the_next_line_is_answered(here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Is it \xff?\n" + QUESTION.encode()), "utf-8"))
    first, _, rest = "".join(open_chat.open_chat("", None)).partition("\n")
    assert "UTF-8" in first and rest == "".join(asking.ask(QUESTION, "", [], every=False))
    with pytest.raises(DataError, match="UTF-8"):
        list(asking.ask("Is it \udcff?", "", [], every=False))


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path):
    path, limits = tmp_path / "mine.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text('{"a": 1}\n')
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            append(path, b'{"b": "2222222222"}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == '{"a": 1}\n'


def test_a_file_that_stays_locked_is_left_alone_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("instruct.serving.feedback.LOCK_S", 0.1)
    path = tmp_path / "mine.jsonl"
    with path.open("a") as file:
        lock(file.fileno())
        with pytest.raises(InstructError):
            append(path, b'{"b": 2}\n')
    append(path, b'{"c": 3}\n')
    assert path.read_text() == '{"c": 3}\n'


def test_lines_are_added_whole_whatever_ends_the_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"a": 1}')
    append(path, b'{"b": 2}\n')
    append(path, b'{"c": 3}\n')
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n{"c": 3}\n'


MANY_LENGTHS = """
import psutil, torch
from instruct.model.kernels import onednn_pack, onednn_product
from instruct.serving.memory import keep_few_kernels

keep_few_kernels()
rows, weight, memory = torch.ones(400, 64), onednn_pack(torch.ones(64, 64)), psutil.Process().memory_info
for count in range(16, 401):
    onednn_product(rows[:count], weight, None)
    if count in (200, 400):
        print(memory().rss)
"""


@pytest.mark.skipif(not kernels().product, reason="this processor multiplies without oneDNN")
def test_prompts_of_ever_new_lengths_need_no_more_memory():
    before, after = map(int, warm.python("-c", MANY_LENGTHS, cwd=ROOT, env=WITH_SOURCE).stdout.split())
    assert after - before < 20e6, "each of 200 lengths would keep half a megabyte"


def test_sigterm_lets_running_answers_finish(served):
    process, url = served
    said = [{"role": "user", "content": QUESTION}]
    body = {"model": "sft", "messages": said, "max_tokens": 180, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 30
        while (status := httpx.get(f"{url}/v1/models", timeout=60).status_code) != 503:
            assert status == 200 and time.monotonic() < until
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))"


def test_connections_beyond_half_of_the_files_are_closed_and_the_server_goes_on(folder):
    with instruct_serve(folder, FEW_FILES) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=60) for _ in range(400)]
        for one in silent[64:]:
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
        for one in silent:
            one.close()
        until = time.monotonic() + 60
        while True:  # the server learns one after the other that they are closed
            with suppress(httpx.TransportError):
                assert httpx.get(f"{url}/health", timeout=60).status_code == 200
                break
            assert time.monotonic() < until
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts OpenMP's threads as Linux has them")
def test_loading_leaves_no_threads_that_would_keep_the_engines_from_waiting_for_each_other(tmp_path):
    code = """
import sys, time, psutil, torch
from instruct.serving import server

def compute(name):
    torch.set_num_threads(2)
    return torch.rand(500, 500).exp().sum()

def more_than(before):
    for _ in range(100):
        if psutil.Process().num_threads() == before:
            break
        time.sleep(0.05)
    return psutil.Process().num_threads() - before

torch.set_num_threads(2)  # starts a thread of a pool that is not OpenMP's
server.open_system, before = compute, psutil.Process().num_threads()
assert list(server.open_systems(["base", "sft"])) == ["base", "sft"]
here = more_than(before)
compute("in this thread, to show that there would be one")
print(here, more_than(before))
"""
    done = warm.python("-c", code, cwd=tmp_path)
    assert done.stdout == "0 1\n", done.stderr
