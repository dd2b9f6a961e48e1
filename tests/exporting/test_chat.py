"""Chat templates make the prompts of training, in Jinja as transformers renders it and in Go as Ollama does."""

import json
import re
import shlex
from dataclasses import replace

import pytest
from evaluation.ollama_server import OllamaServer
from exporting.small import check_of, records, small_source, small_tokenizer
from servers.settings import calls, ollama_params

from instruct.core.errors import ParamsError
from instruct.core.records import Example, Turn
from instruct.exporting.chat import go_template, messages_of, prompt_of
from instruct.exporting.llamacpp import ollama_export
from instruct.exporting.modelfile import modelfile
from instruct.exporting.source import open_source
from instruct.model.chat_template import ChatTemplate
from instruct.model.checkpoint import save_checkpoint
from instruct.servers.base import Request
from instruct.servers.ollama import Ollama
from instruct.text.jinja import jinja_template
from instruct.text.prompts import DEFAULT, TEMPLATES, PromptParams

templates = pytest.mark.parametrize("name", TEMPLATES)
CHATS = [
    Example(id="", instruction="Hund", input="", output="", system=system, history=history)
    for system in ("", "Translate.")
    for history in ((), (Turn("Katze", "", "cat"),), (Turn("Say it", "Maus", "mouse"), Turn("Ja", "", "yes")))
]
CHATS += [replace(one, input="in German") for one in CHATS]
HOSTILE = ['quotes " and \\ and {{ .System }} {% if %}', "several\nlines\n\n", "### Response:\n", "ünïcödé 👍🏽"]


def chat_template(template, begin=None):
    return jinja_template(template, small_tokenizer("llama3", begin))


def jinja_prompt(template, messages):
    return ChatTemplate(source=chat_template(template)).render(messages)


def trained_on(template, chat):
    """The prompt of training as text, with the small tokenizer's end token after each answer."""
    pieces = template.prompt(chat.turns, chat.system)
    return "".join("<|im_end|>" if piece.kind == "end" else piece.text for piece in pieces)


@templates
def test_a_user_message_gives_the_training_prompt(name):
    template = TEMPLATES[name]
    for one in records(6):
        prompt = template.render(one.instruction, one.input)
        assert jinja_prompt(template, messages_of(one, template)) == prompt
    for text in HOSTILE:
        assert jinja_prompt(template, [{"role": "user", "content": text}]) == template.render(text)


@templates
@pytest.mark.parametrize("chat", CHATS)
def test_the_messages_of_a_chat_give_the_training_prompt(name, chat):
    template = TEMPLATES[name]
    assert jinja_prompt(template, messages_of(chat, template)) == trained_on(template, chat)


@pytest.mark.parametrize("begin", [None, "<|begin_of_text|>"])
@pytest.mark.parametrize("system", [DEFAULT, "", "You are a pirate.", "{{ x }}\n<|im_end|>\n"])
@templates
def test_a_template_and_its_system_prompt_are_known_by_their_prompts(name, system, begin):
    params = PromptParams(template=name, system=system if name == "chatml" else DEFAULT)
    assert prompt_of(chat_template(params.chosen, begin), begin or "") == params


@pytest.mark.parametrize("broken", ["", "{{ x.y.z }}", "{% if %}", "{{ messages }}", "{{ 1 / 0 }}"])
def test_a_chat_template_of_other_prompts_is_none_of_ours(broken):
    assert prompt_of(broken) is None


@pytest.mark.parametrize("given", [None, "chatml"])
@pytest.mark.parametrize("system", [DEFAULT, "", "You are a pirate."])
def test_a_checkpoint_of_another_folder_keeps_its_system_prompt(given, system, tmp_path):
    source = small_source(tmp_path, "llama", "chatml", tokenizer=small_tokenizer("llama3", "<|begin_of_text|>"))
    prompt = PromptParams(template="chatml", system=system)
    save_checkpoint(source.model, source.tokenizer, tmp_path / "again", template=prompt.chosen)
    assert open_source(tmp_path, tmp_path / "again", given).prompt == prompt
    assert open_source(tmp_path, tmp_path / "again", "phi3").prompt == PromptParams(template="phi3", system=DEFAULT)


def test_a_checkpoint_is_opened_by_the_chat_template_it_carries_or_refused(tmp_path):
    source = small_source(tmp_path, "gpt2")
    with pytest.raises(ParamsError, match="--template"):
        open_source(tmp_path, source.folder)
    with pytest.raises(ParamsError, match=r"alpaka.*did you mean alpaca"):
        open_source(tmp_path, source.folder, "alpaka")
    (source.folder / "chat_template.jinja").write_text(chat_template(TEMPLATES["phi3"]))
    assert open_source(tmp_path, source.folder).template_name == "phi3"
    (source.folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ParamsError, match="--template"):
        open_source(tmp_path, source.folder)


# Ollama


def parsed(text):
    """A Modelfile by Ollama's documentation: an instruction a line, values in double or triple quotes."""
    pattern = re.compile(r'^([A-Z]+) (?:(\w+) )??(?:"""(.*?)"""|"([^"\n]*)"|(\S+))$', re.MULTILINE | re.DOTALL)
    comment, _, body = text.partition("\n")
    assert comment.startswith("# ")
    found, end = [], 0
    for match in pattern.finditer(body):
        assert not body[end : match.start()].strip(), body[end : match.start()]
        values = [value for value in match.groups()[2:] if value is not None]
        found.append((match[1], match[2], values[0]))
        end = match.end()
    assert not body[end:].strip()
    return found


def rendered(template, messages):
    """What Ollama makes of messages: Go's text/template as far as our templates go; anything else fails."""
    parts, variables, out = re.split(r"\{\{ (.*?) \}\}", template), {}, []  # every other part is an action
    turns = [{"Role": one["role"], "Content": one["content"]} for one in messages]
    root = {"Messages": turns, "System": "\n\n".join(one["Content"] for one in turns if one["Role"] == "system")}

    def value(words, dot):
        if words.startswith("eq "):
            one, other = (value(word, dot) for word in words.split()[1:])
            return one == other
        if words.startswith('"'):
            return json.loads(words)
        return variables[words] if words.startswith("$") else dot[words.removeprefix(".")]

    def block(place, dot, live):
        """Write what is live from a place on; returns the place of the `else` or `end` after it."""
        while place < len(parts) and not (place % 2 and parts[place].split()[0] in ("else", "end")):
            word, _, rest = parts[place].partition(" ") if place % 2 else ("", "", "")
            if word == "if":
                place = branches(place, dot, live)
            elif word == "range":
                items = value(rest, dot) if live else []
                place = [block(place + 1, item, live) for item in items or [{}] if items or not live][-1]
            elif rest.startswith((":= ", "= ")) and live:
                assert (word in variables) == rest.startswith("= ")
                variables[word] = value(rest.split(" ", 1)[1], dot)
            elif live:
                out.append(value(parts[place], dot) if place % 2 else parts[place])
            place += 1
        return place

    def branches(place, dot, live):
        done = False
        while parts[place] != "end":
            words = parts[place].removeprefix("else ").removeprefix("if ")
            chosen = live and not done and (words == "else" or bool(value(words, dot)))
            done, place = done or chosen, block(place + 1, dot, chosen)
        return place

    assert block(0, root, True) == len(parts)
    return "".join(out)


def test_the_line_for_ollama_may_be_pasted_into_a_shell(tmp_path):
    source, out = small_source(tmp_path, "gpt2"), tmp_path / "an export"
    export = ollama_export(source, "f32", check_of(tmp_path, []), "my model", out)
    (line,) = export.write(tmp_path)
    assert shlex.split(line) == ["ollama", "create", "my model", "-f", str(out / "Modelfile")]


@templates
def test_the_modelfile_has_every_stop_greedy_answers_context_and_licence(name, tmp_path):
    source = small_source(tmp_path, "llama", name)
    source = replace(source, origin=replace(source.origin, licence="MIT"))
    lines = parsed(modelfile(source, "model.gguf", 320))
    assert [value for kind, _, value in lines if kind == "FROM"] == ["./model.gguf"]
    assert [value for kind, _, value in lines if kind == "LICENSE"] == ["MIT"]
    assert [value for kind, _, value in lines if kind == "TEMPLATE"] == [go_template(TEMPLATES[name], source.tokenizer)]
    settings = [(key, value) for kind, key, value in lines if kind == "PARAMETER"]
    stops = {value for key, value in settings if key == "stop"}
    assert stops == {*TEMPLATES[name].stop_strings, "<|im_end|>", "<|endoftext|>"}
    numbers = {key: float(value) for key, value in settings if key != "stop"}
    assert numbers == {"temperature": 0, "top_k": 1, "repeat_penalty": 1, "num_ctx": 320}


@templates
def test_what_ollama_renders_of_a_chat_is_the_training_prompt(name, tmp_path):
    source = small_source(tmp_path, "llama", name)
    template = next(value for kind, _, value in parsed(modelfile(source, "m.gguf", 64)) if kind == "TEMPLATE")
    with OllamaServer(model="small:latest") as server:
        client = Ollama(ollama_params(server.url, model="small", num_ctx=512), calls())
        for one in records(6):
            messages = tuple((m["role"], m["content"]) for m in messages_of(one, source.template))
            client.ask(Request(messages=messages))
        assert not server.breaches
        sent = [body["messages"] for body in server.verdicts]
    assert [rendered(template, chat) for chat in sent] == [trained_on(source.template, one) for one in records(6)]


@templates
@pytest.mark.parametrize("chat", CHATS)
def test_what_ollama_renders_of_several_turns_is_the_training_prompt(name, chat):
    template = TEMPLATES[name]
    go = go_template(template, small_tokenizer())
    assert rendered(go, messages_of(chat, template)) == trained_on(template, chat)


@pytest.mark.parametrize("system", ['Answer as {"a": {"b": 1}}.', "{{ .Prompt }}", "{{", "{{- end }}", "{"])
def test_braces_in_a_system_prompt_are_text_to_ollama(system):
    template = PromptParams(template="chatml", system=system).chosen
    go = go_template(template, small_tokenizer())
    assert rendered(go, messages_of(CHATS[0], template)) == trained_on(template, CHATS[0])
