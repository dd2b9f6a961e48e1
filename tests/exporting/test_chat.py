"""Chat templates make the prompts of training, in Jinja as transformers renders it and in Go as Ollama does."""

import re
import shlex
from dataclasses import replace

import pytest
from evaluation.ollama_server import OllamaServer
from exporting.small import check_of, records, small_source, small_tokenizer
from servers.settings import calls, ollama_params

from instruct.core.errors import ParamsError
from instruct.core.records import Turn
from instruct.exporting.chat import go_template, messages_of, render_jinja, same_prompts
from instruct.exporting.llamacpp import ollama_export
from instruct.exporting.modelfile import modelfile
from instruct.exporting.source import open_source
from instruct.servers.base import Request
from instruct.servers.ollama import Ollama
from instruct.text.jinja import jinja_template
from instruct.text.prompts import TEMPLATES, as_text

templates = pytest.mark.parametrize("name", TEMPLATES)
HOSTILE = ['quotes " and \\ and {{ .System }} {% if %}', "several\nlines\n\n", "### Response:\n", "ünïcödé 👍🏽"]


def chat_template(template):
    return jinja_template(template, small_tokenizer())


@templates
def test_a_user_message_gives_the_training_prompt(name):
    template = TEMPLATES[name]
    for one in records(6):
        prompt = template.render(one.instruction, one.input)
        assert render_jinja(chat_template(template), messages_of(one, template)) == prompt
    for text in HOSTILE:
        rendered = render_jinja(chat_template(template), [{"role": "user", "content": text}])
        assert rendered == template.render(text)


@templates
def test_a_system_message_has_the_place_that_training_gave_it(name):
    template = TEMPLATES[name]
    chat = [{"role": "system", "content": "Translate."}, {"role": "user", "content": "Hund"}]
    assert render_jinja(chat_template(template), chat) == as_text(template.prompt([Turn("Hund", "")], "Translate."))


def test_a_template_is_known_by_its_prompts():
    for name, template in TEMPLATES.items():
        assert [other for other in TEMPLATES if same_prompts(chat_template(template), TEMPLATES[other])] == [name]
    for broken in ("", "{{ x.y.z }}", "{% if %}", "{{ messages }}", "{{ 1 / 0 }}"):
        assert not same_prompts(broken, TEMPLATES["alpaca"])


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


def rendered(template, **values):
    """Go's text/template as far as {{ .Name }}, {{ if .Name }}, {{ else }} and {{ end }} go; anything else fails."""
    out, live = [], [True]
    for place, part in enumerate(re.split(r"\{\{ (.*?) \}\}", template)):
        if place % 2 == 0:
            out.append(part if all(live) else "")
        elif part.startswith("if ."):
            live.append(bool(values[part.removeprefix("if .")]))
        elif part == "else":
            live[-1] = not live[-1]
        elif part == "end":
            live.pop()
        else:
            assert part.startswith(".")
            out.append(values[part.removeprefix(".")] if all(live) else "")
    assert live == [True]
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
    assert [value for kind, _, value in lines if kind == "TEMPLATE"] == [go_template(TEMPLATES[name])]
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
    prompts = [rendered(template, System="", Prompt=chat[-1]["content"]) for chat in sent]
    assert prompts == [source.template.render(one.instruction, one.input) for one in records(6)]
    told = as_text(source.template.prompt([Turn("Hund", "")], "Translate."))
    assert rendered(template, System="Translate.", Prompt="Hund") == told
