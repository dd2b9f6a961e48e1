"""The prompt templates in the languages of other programs: Jinja (transformers, llama.cpp, vLLM) and Go (Ollama).

A system message is rendered as the instruction and the user's message as its input, as `split.columns.system` reads
such data.
"""

import json
from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from instruct.core.records import Example
from instruct.text.prompts import Template

_TRIALS = (("Name a bird.", ""), ("Spell it.", "recieve"))


def jinja_template(template: Template) -> str:
    """The chat template: one user message gives the training prompt; later turns follow without the preamble."""
    text = {name: json.dumps(getattr(template, name)) for name in ("before_instruction", "before_input")}
    response = json.dumps(template.before_response)
    return (
        f"{{{{- {json.dumps(template.preamble)} }}}}"
        '{%- set ns = namespace(before="") %}'
        "{%- for message in messages %}"
        '{%- if message["role"] == "assistant" %}'
        f'{{{{- {response} + message["content"] + eos_token }}}}'
        "{%- else %}"
        f'{{{{- ({text["before_input"]} if ns.before == "system" else {text["before_instruction"]})'
        ' + message["content"] }}'
        "{%- endif %}"
        '{%- set ns.before = message["role"] %}'
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {response} }}}}{{%- endif %}}"
    )


def go_template(template: Template) -> str:
    """Ollama's TEMPLATE, in the subset that it has always known: .System, .Prompt, if, else, end."""
    one = f"{template.before_instruction}{{{{ .Prompt }}}}"
    both = f"{template.before_instruction}{{{{ .System }}}}{template.before_input}{{{{ .Prompt }}}}"
    return f"{template.preamble}{{{{ if .System }}}}{both}{{{{ else }}}}{one}{{{{ end }}}}{template.before_response}"


def messages_of(example: Example, template: Template) -> list[dict[str, str]]:
    """The chat that asks for one record: a single user message."""
    middle = template.before_input + example.input if example.input else ""
    return [{"role": "user", "content": example.instruction + middle}]


def render_jinja(source: str, messages: Sequence[Mapping[str, str]], eos: str = "", *, generation: bool = True) -> str:
    """The prompt that transformers would make of a chat template."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    values = {"messages": messages, "add_generation_prompt": generation, "eos_token": eos, "bos_token": ""}
    return environment.from_string(source).render(**values)


def same_prompts(source: str, template: Template) -> bool:
    """Whether a chat template makes the prompts of one of ours."""
    try:
        return bool(source) and all(
            render_jinja(source, messages_of(_example(*trial), template)) == template.render(*trial)
            for trial in _TRIALS
        )
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
        return False


def _example(instruction: str, input: str) -> Example:
    return Example(id="", instruction=instruction, input=input, output="")
