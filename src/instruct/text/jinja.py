"""The prompt templates as Jinja: the chat template of a checkpoint for transformers, vLLM and llama.cpp."""

import json
from typing import Any

from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer

_ROLES = "roles must be user and assistant in turn, after at most one system message"


def jinja_template(template: Template, tokenizer: Tokenizer) -> str:
    """A chat template that makes the prompts of training; raises in Jinja for roles out of order."""
    header, closing = template.before_response, ""
    if template.turn_end and header.startswith(template.turn_end):
        closing = template.turn_end + template.between_turns
        header = header.removeprefix(closing)
    end = tokenizer.spell(tokenizer.eos_id) + template.between_turns
    begin = "".join(map(tokenizer.spell, tokenizer.begin_ids))
    answer = f'{{{{- {_text(header)} + message["content"] + {_text(end)} }}}}'
    asked = f'{_question(template, closing)}{{%- set ns.next = "assistant" -%}}'
    return (
        '{%- set ns = namespace(system="", next="user") -%}'
        '{%- if messages and messages[0]["role"] == "system" -%}'
        '{%- set ns.system = messages[0]["content"] -%}{%- endif -%}'
        f"{_opening(template, begin)}"
        "{%- for message in messages -%}"
        '{%- if not (loop.first and message["role"] == "system") -%}'
        f'{{%- if message["role"] != ns.next -%}}{{{{- raise_exception({_text(_ROLES)}) }}}}{{%- endif -%}}'
        f'{{%- if message["role"] == "user" -%}}{asked}'
        f'{{%- else -%}}{answer}{{%- set ns.next = "user" -%}}{{%- endif -%}}'
        "{%- endif -%}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{_said(header)}{{%- endif -%}}"
    )


def _opening(template: Template, begin: str) -> str:
    if not template.before_system:
        return _said(begin + template.preamble)
    before, after = _text(template.before_system), _text(template.after_system)
    block = f"{{{{- {before} + (ns.system or {_text(template.system)}) + {after} }}}}"
    if not template.system:
        block = f"{{%- if ns.system -%}}{block}{{%- endif -%}}"
    return _said(begin) + block + _said(template.preamble)


def _question(template: Template, closing: str) -> str:
    """The user's message; if the template has no system prompt, that prompt is the instruction and this the input."""
    question = f'{{{{- {_text(template.before_instruction)} + message["content"] + {_text(closing)} }}}}'
    if template.before_system:
        return question
    told = f"{_text(template.before_instruction)} + ns.system + {_text(template.before_input)}"
    first = f'{{{{- {told} + message["content"] }}}}{{%- set ns.system = "" -%}}'
    return f"{{%- if ns.system -%}}{first}{{%- else -%}}{question}{{%- endif -%}}"


def _said(text: str) -> str:
    """The statement that prints a fixed text; empty for an empty text."""
    return f"{{{{- {_text(text)} }}}}" if text else ""


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def chat_settings(template: Template, tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of a checkpoint's `tokenizer_config.json` beside the names of the end and padding tokens."""
    known = [marker for marker in template.markers if marker in tokenizer.encoding.special_tokens_set]
    return {
        "additional_special_tokens": known,
        "chat_template": jinja_template(template, tokenizer),
        "clean_up_tokenization_spaces": False,
    }


def generation_settings(tokenizer: Tokenizer, pad_id: int) -> dict[str, Any]:
    """A checkpoint's `generation_config.json`: the tokens that end an answer, that of training first.

    It leaves out the template's stop strings: transformers refuses to generate with them unless it also gets a
    tokenizer.
    """
    others = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    return {"eos_token_id": [tokenizer.eos_id, *others], "pad_token_id": pad_id}
