"""The prompt templates in Ollama's language, and whether a chat template makes the same prompts as one of ours.

If a template has no place for a system message, the system message is the instruction and the user's the input.
"""

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from instruct.core.records import Example
from instruct.text.prompts import Template

_TRIALS = (
    Example(id="", instruction="Name a bird.", input="", output=""),
    Example(id="", instruction="Spell it.", input="recieve", output=""),
)


def go_template(template: Template) -> str:
    """Ollama's TEMPLATE, in the subset that all versions support: .System, .Prompt, if, else, end."""
    one = f"{template.before_instruction}{{{{ .Prompt }}}}"
    if template.before_system:
        opening = f"{_system_block(template)}{template.preamble}"
        return f"{opening}{one}{template.before_response}"
    both = f"{template.before_instruction}{{{{ .System }}}}{template.before_input}{{{{ .Prompt }}}}"
    return f"{template.preamble}{{{{ if .System }}}}{both}{{{{ else }}}}{one}{{{{ end }}}}{template.before_response}"


def _system_block(template: Template) -> str:
    own = f"{template.before_system}{{{{ .System }}}}{template.after_system}"
    default = f"{template.before_system}{template.system}{template.after_system}" if template.system else ""
    return f"{{{{ if .System }}}}{own}{{{{ else }}}}{default}{{{{ end }}}}"


def messages_of(example: Example, template: Template) -> list[dict[str, str]]:
    """The messages of one record, up to its last question."""
    messages = [{"role": "system", "content": example.system}] if example.system else []
    for turn in example.turns:
        middle = template.before_input + turn.input if turn.input else ""
        messages.append({"role": "user", "content": turn.instruction + middle})
        messages.append({"role": "assistant", "content": turn.output})
    return messages[:-1]


def render_jinja(source: str, messages: Sequence[Mapping[str, str]], eos: str = "", *, generation: bool = True) -> str:
    """The prompt that transformers makes with a chat template."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    values = {"messages": messages, "add_generation_prompt": generation, "eos_token": eos, "bos_token": ""}
    return environment.from_string(source).render(**values)


def same_prompts(source: str, template: Template) -> bool:
    """Whether a chat template makes the same prompts as one of ours."""
    try:
        return bool(source) and all(
            render_jinja(source, messages_of(one, template)) == template.render(one.instruction, one.input)
            for one in _TRIALS
        )
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
        return False
