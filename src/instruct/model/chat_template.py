"""The chat template in a backbone's own files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from instruct.backbones.catalog import Backbone
from instruct.backbones.fetch import ensure
from instruct.core.errors import BackboneError, DataError
from instruct.core.files import read_json, read_text
from instruct.model.gguf_header import GGUFHeader


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A template in Jinja, and the token that it may put at the start of a text ("" if there is none)."""

    source: str
    begin_token: str = ""

    def render(self, messages: Sequence[Mapping[str, str]], end_token: str = "") -> str:
        """The prompt up to the next answer, as transformers makes it; raises what a wrong template raises in Jinja."""
        # There is no clock, so that a template that asks for the date is refused.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        tokens = {"bos_token": self.begin_token, "eos_token": end_token}
        return environment.from_string(self.source).render(messages=messages, add_generation_prompt=True, **tokens)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def chat_template_of(backbone: Backbone) -> ChatTemplate | None:
    """The backbone's own chat template, or None if its files have none; raises BackboneError for a damaged one."""
    paths = {path.name: path for path in ensure(backbone)}
    if backbone.format == "gguf":
        return _from_gguf(next(iter(paths.values())))
    try:
        return _from_folder(paths)
    except DataError as error:
        raise BackboneError(str(error)) from None


def _from_gguf(path: Path) -> ChatTemplate | None:
    fields = GGUFHeader(path).fields
    source, tokens = fields.get("tokenizer.chat_template"), fields.get("tokenizer.ggml.tokens")
    if source is None:
        return None
    begin = fields.get("tokenizer.ggml.bos_token_id")
    known = isinstance(tokens, list) and type(begin) is int and 0 <= begin < len(tokens)
    return _checked(source, tokens[begin] if known else "", path)  # type: ignore[index]


def _from_folder(paths: Mapping[str, Path]) -> ChatTemplate | None:
    """From chat_template.jinja, or from tokenizer_config.json, as Hugging Face's tokenizers are saved."""
    config: Any = read_json(paths["tokenizer_config.json"]) if "tokenizer_config.json" in paths else {}
    if not isinstance(config, Mapping):
        raise DataError(f"{paths['tokenizer_config.json']}: must be an object of settings; fetch it again")
    path = paths.get("chat_template.jinja")
    source = read_text(path) if path else config.get("chat_template")
    if isinstance(source, list):  # several with names
        source = next((one["template"] for one in source if one.get("name") == "default"), None)
    if source is None:
        return None
    begin = config.get("bos_token") or ""
    return _checked(source, begin["content"] if isinstance(begin, Mapping) else begin, path or "tokenizer_config.json")


def _checked(source: Any, begin: Any, where: Path | str) -> ChatTemplate:
    if not isinstance(source, str) or not isinstance(begin, str):
        raise BackboneError(f"{where}: its chat template or its first token is not text; fetch it again")
    return ChatTemplate(source=source, begin_token=begin)
