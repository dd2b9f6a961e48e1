"""A conversation: what a failure, Ctrl-C and the end of the input leave of it."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from serving.conftest import make_system
from serving.test_commands import WITH_SOURCE

from instruct.cli.use import chat as run_chat
from instruct.generation.decode import generate
from instruct.serving import talking
from instruct.serving.chat import Chat
from instruct.serving.keyboard import ctrl_c_stops, typed_lines
from instruct.serving.messages import Said
from instruct.serving.policy import Policy, Rule
from instruct.serving.talking import Manner, Talker
from instruct.text.encoding import encode_prompt

MANNER = Manner(max_tokens=8, temperature=1.0, seed=1)


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def ctrl_c(monkeypatch):
    """Sends Ctrl-C to this process, which a shell may have started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def make_chat(**changes):
    talker = Talker(make_system("dpo", 3, "phi3"))
    return Chat(**{"talker": talker, "manner": MANNER, "open_named": lambda name: talker, **changes})


def answer(chat, *lines):
    return "".join(chat.run(lines))


def with_broken_weights(chat, *lines):
    weight = next(chat.talker.system.model.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
        said = answer(chat, *lines)
        weight.copy_(kept)
    return said


def stopped(chat, ctrl_c, line):
    said = ""
    for piece in chat.run([line]):
        if piece and not said:
            ctrl_c()
        said += piece
    return said


@pytest.mark.parametrize("how", ["failed", "stopped"])
@pytest.mark.parametrize("line", ["/again", "And now?"])
def test_an_answer_that_is_not_whole_leaves_the_conversation_as_it_was(how, line, ctrl_c):
    chat, other = make_chat(typed=True), make_chat()
    first = answer(chat, "Hello")
    before, manner = list(chat.said), chat.manner
    assert first == answer(other, "Hello") == before[1].content + "\n"
    cut = stopped(chat, ctrl_c, line) if how == "stopped" else with_broken_weights(chat, line)
    assert ("stopped" if how == "stopped" else "records 0") in cut.splitlines()[-1]
    assert (chat.said, chat.manner) == (before, manner)
    assert answer(chat, line) == answer(other, line) and chat.said == other.said


@pytest.mark.parametrize("place", [0, 1])
def test_what_the_policy_says_of_an_answer_is_not_what_the_model_said(place):
    greedy = replace(MANNER, temperature=0.0)
    free = make_chat(manner=greedy)
    answer(free, "Hello")
    model_said = free.said[1].content
    word = model_said.split()[place]
    rule = Rule(name="the rule", action="block", pattern=re.escape(word), message="Not here.")
    chat = make_chat(manner=greedy, policy=Policy(rules=(rule,)))
    shown = answer(chat, "Hello")
    passed = model_said[: model_said.lower().index(word.lower())]
    assert shown.startswith(passed) and word not in shown[: len(passed)]
    for notice in (shown[len(passed) :], chat.talker.cut):
        assert "Not here." in notice and "the rule" in notice
    assert chat.said == [] and chat.talker.blocked
    chat.policy = None
    answer(chat, "Hello")
    assert chat.said == free.said and not chat.talker.blocked


def test_a_second_ctrl_c_ends_the_command_and_so_does_the_first_in_a_pipe(ctrl_c):
    with pytest.raises(KeyboardInterrupt), ctrl_c_stops() as came:
        ctrl_c()
        assert came()
        ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        stopped(make_chat(), ctrl_c, "Hello")


def test_ctrl_c_at_the_prompt_keeps_the_chat_and_ctrl_d_ends_its_line(capsys):
    asked, replies = [], iter([KeyboardInterrupt, "Hello", EOFError])

    def ask(prompt):
        asked.append(prompt)
        reply = next(replies)
        if isinstance(reply, str):
            return reply
        raise reply

    assert list(typed_lines(ask)) == ["Hello"]
    assert asked[0] == asked[2] == "> " and "Ctrl-D" in asked[1] and asked[1].endswith("\n> ")
    assert capsys.readouterr().out == "\n"


def test_in_a_terminal_the_chat_survives_ctrl_c_and_ends_at_the_end_of_input(here):
    master, slave = pty.openpty()
    command = [sys.executable, "-c", "from instruct.cli import run; run()", "chat"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=WITH_SOURCE, start_new_session=True,
                          preexec_fn=lambda: take_terminal(slave)) as process:  # fmt: skip
        os.close(slave)
        try:
            shown = read_until(master, "> ")
            shown += read_until(master, "ends the chat\r\n> ", typed="\x03")
            shown += read_until(master, "seed=5\r\n> ", typed="/set seed 5\n")
            shown += read_until(master, "", typed="\x04")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            os.close(master)
    assert shown.endswith("> \r\n") and "Aborted" not in shown


def take_terminal(slave):
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def read_until(master, end, *, typed=""):
    """What the terminal shows up to a text, or all that is left; after five seconds of silence it types again.

    Python waits on if a signal comes between its look for one and its wait for a key.
    """
    shown = ""
    with suppress(OSError):  # how Linux says that the other side is closed
        for _ in range(40):
            os.write(master, typed.encode())
            while select.select([master], [], [], 5)[0] and (part := os.read(master, 1000)):
                shown += part.decode()
                if end and end in shown:
                    return shown
        raise AssertionError(f"the terminal shows {shown!r}, and not {end!r}")
    return shown


def test_without_standard_input_there_is_nothing_to_answer(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    run_chat("")
    assert capsys.readouterr().out == ""


def test_save_knows_the_home_folder_and_refuses_what_cannot_be_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    chat = make_chat()
    said = answer(chat, "Hello", "/save ~/said.json", "/save a\0b", "/save").splitlines()
    assert len(json.loads((tmp_path / "said.json").read_text())["messages"]) == 2
    assert sum("needs the name" in line for line in said) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["said.json"]


def test_what_all_prompts_share_is_computed_once_in_a_conversation(monkeypatch, offline):
    made, lanes_of = [], talking.lanes_of
    monkeypatch.setattr(talking, "lanes_of", lambda *a, **k: made.append(1) or lanes_of(*a, **k))
    system = make_system("sft", 2)
    talker, manner = Talker(system), replace(MANNER, temperature=0.0)
    for question in ("Name a bird.", "Name a river in Asia.", "Say it."):
        expected = offline(system, {"0": system.template.render(question, "")}, max_new_tokens=8)["0"]
        assert "".join(talker.say([Said(role="user", content=question)], manner)) == expected
    assert made == [1]


def test_a_prompt_beyond_the_context_is_told_and_how_a_conversation_gets_room_again():
    chat = make_chat()
    beyond = "word " * chat.talker.system.model.block_size
    assert "/new" not in (alone := answer(chat, beyond)) and "tokens" in alone
    assert "conversation" in answer(chat, "Hello", beyond) and len(chat.said) == 2


@pytest.mark.parametrize(
    ("question", "max_tokens", "reason"),
    [
        ("Name a bird.", 8, "length"),
        ("word " * 180, 200, "length"),  # the context ends first
        ("Name a bird.", 8, "repetition"),
        ("Name a bird.", 8, "stop_string"),
    ],
)
def test_an_answer_that_is_not_whole_is_told_with_the_reason(question, max_tokens, reason, caplog):
    system, said = make_system("sft", 2), [Said(role="user", content=question)]
    manner = replace(MANNER, temperature=0.0, max_tokens=max_tokens)
    system = replace(system, params=replace(system.params, temperature=0.0, max_repeats=3))
    if reason == "repetition":
        with torch.no_grad():
            for weight in system.model.parameters():
                weight.zero_()  # every token is the first one then
    if reason == "stop_string":
        first = "".join(Talker(system).say(said, manner))[:1]
        system = replace(system, template=replace(system.template, stop_strings=(first,)))
    prompt = {"0": system.template.render(question, "")}
    room = system.model.block_size - len(encode_prompt(system.tokenizer, prompt["0"]))
    found = generate(
        system.model, system.tokenizer, prompt, prefix=system.template.prefix_pieces,
        stop_strings=system.template.stop_strings, params=replace(system.params, max_new_tokens=min(max_tokens, room)),
        runtime=system.runtime, shown=False,
    )["0"]  # fmt: skip
    assert found.stop_reason == reason
    talker = Talker(system)
    assert "".join(talker.say(said, manner)) == found.text
    numbers = [int(number) for number in re.findall(r"\d+", talker.cut)]
    assert bool(talker.cut) == (reason != "stop_string")
    assert numbers == ([found.tokens] if reason == "length" else [])
    assert ("max_tokens" in talker.cut) == (reason == "length" and room > max_tokens)
    answer(Chat(talker=talker, manner=manner, open_named=lambda name: talker), question)
    assert caplog.messages == ([talker.cut] if talker.cut else [])
