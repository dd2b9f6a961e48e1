"""The prompt templates in Ollama's language, and which of them makes the prompts of a chat template.

If a template has no place for a system message, the system message is the instruction and the user's the input.
"""

from dataclasses import replace

from jinja2 import TemplateError

from instruct.core.records import Example
from instruct.model.chat_template import ChatTemplate
from instruct.text.prompts import DEFAULT, TEMPLATES, PromptParams, Template
from instruct.text.tokenizer import Tokenizer

_TRIALS = (
    Example(id="", instruction="Name a bird.", input="", output=""),
    Example(id="", instruction="Spell it.", input="recieve", output=""),
)


def go_template(template: Template, tokenizer: Tokenizer) -> str:
    """Ollama's TEMPLATE, without the begin token, which Ollama adds.

    It reads .Messages, because Ollama renders a template of .Prompt again for each turn, with its opening.
    """
    asked = f"{_text(template.before_instruction)}{_told(template)}{{{{ .Content }}}}{_text(template.before_response)}"
    said = f"{{{{ .Content }}}}{_text(tokenizer.spell(tokenizer.eos_id) + template.between_turns)}"
    turn = f'{{{{ if eq .Role "user" }}}}{asked}{{{{ else if eq .Role "assistant" }}}}{said}{{{{ end }}}}'
    return f"{_opening(template)}{_text(template.preamble)}{{{{ range .Messages }}}}{turn}{{{{ end }}}}"


def _opening(template: Template) -> str:
    if not template.before_system:
        return "{{ $system := .System }}"
    before, after = _text(template.before_system), _text(template.after_system)
    default = f"{before}{_text(template.system)}{after}" if template.system else ""
    return f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{default}{{{{ end }}}}"


def _told(template: Template) -> str:
    """The system message before the first question, for a template without another place for it."""
    if template.before_system:
        return ""
    block = f'{{{{ $system }}}}{_text(template.before_input)}{{{{ $system = "" }}}}'
    return f"{{{{ if $system }}}}{block}{{{{ end }}}}"


def _text(text: str) -> str:
    """A fixed text in Go's language, where two braces begin an action."""
    return text.replace("{", '{{ "{" }}')


def messages_of(example: Example, template: Template) -> list[dict[str, str]]:
    """The messages of one record, up to its last question, with the texts of `Template.chat`."""
    messages = [{"role": "system", "content": example.system}] if example.system else []
    told = bool(example.system and not template.before_system)
    for place, turn in enumerate(example.turns):
        joint = "\n\n" if told and place == 0 else template.before_input
        messages.append({"role": "user", "content": turn.instruction + (joint + turn.input if turn.input else "")})
        messages.append({"role": "assistant", "content": turn.output})
    return messages[:-1]


def prompt_of(source: str, begin: str = "") -> PromptParams | None:
    """The template and system prompt that make the same prompts as a chat template; None if none of ours does.

    `begin` is the begin token, which a chat template may hold and no template of ours does.
    """
    for name, template in TEMPLATES.items():
        try:
            made = [
                ChatTemplate(source=source).render(messages_of(one, template)).removeprefix(begin) for one in _TRIALS
            ]
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
            return None
        params = PromptParams(template=name, system=_system_in(made[0], template))
        if made == [params.chosen.render(one.instruction, one.input) for one in _TRIALS]:
            return params
    return None


def _system_in(prompt: str, template: Template) -> str:
    """The system prompt in the prompt of the first trial, as a setting."""
    if not template.before_system:
        return DEFAULT
    opening = prompt.removesuffix(replace(template, system="").render(_TRIALS[0].instruction))
    system = opening.removeprefix(template.before_system).removesuffix(template.after_system)
    return DEFAULT if system == template.system else system
