"""How a byte-level tokenizer prepares a text before its merges: normalisation, and splitting into pieces.

The settings of tokenizer.json become one expression for tiktoken, or are refused if the pieces could differ.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+"
_GPT2 = _WORDS + r"| ?\p{N}+" + _REST + r"|\s+(?!\S)|\s+"
# Each digit is a piece, and so are the spaces before it, as if the text ended there.
_SMOLLM = r"\p{N}|" + _WORDS + _REST + r"|\s+(?=\p{N})|\s+(?!\S)|\s+"
_WORDS_OF_LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST_OF_LLAMA = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS_OF_LLAMA + r"\p{N}{1,3}" + _REST_OF_LLAMA
_QWEN2 = _WORDS_OF_LLAMA + r"\p{N}" + _REST_OF_LLAMA
# Syntax that Oniguruma, which tokenizers uses, and tiktoken's engine read the same way; they differ in \w and \b.
_UNSAFE = re.compile(r"\\(?![pPsSdDrnt\\/.\-+*?|(){}\[\]^$'\"])|&&|\[\[|\[:|\}\+|(?<!\[)\^|\$|\(\?<|\(\?>|\(\?[^:=!i]")

_EVERY_KIND = "Aa  1!\n\t_'s\u00e9\u4e2d\u0301 "


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The steps before merging: `pattern` finds the pieces, `stages` is the equivalent in tokenizer.json.

    `nfc` composes characters first. With `ignore_merges` a piece that is a token stays whole, regardless of merges.
    """

    pattern: str
    stages: str
    nfc: bool = False
    ignore_merges: bool = False

    def normalise(self, text: str) -> str:
        """The text before splitting into pieces."""
        return unicodedata.normalize("NFC", text) if self.nfc else text

    def described(self) -> dict[str, Any]:
        """The equivalent parts of a tokenizer.json, apart from `ignore_merges`."""
        normalizer = {"normalizer": {"type": "NFC"}} if self.nfc else {}
        return {**normalizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": json.loads(self.stages)}}


def byte_level(*, use_regex: bool = True) -> dict[str, Any]:
    """The stage that turns bytes into characters."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _dump(*stages: Mapping[str, Any]) -> str:
    return json.dumps(stages, sort_keys=True)


_DIGITS = {"type": "Digits", "individual_digits": True}
LAYOUTS: Mapping[str, Layout] = {
    "gpt2": Layout(pattern=_GPT2, stages=_dump(byte_level())),
    "smollm": Layout(pattern=_SMOLLM, stages=_dump(_DIGITS, byte_level())),
    "llama3": Layout(
        pattern=_LLAMA3, stages=_dump(_split(_LLAMA3), byte_level(use_regex=False)), ignore_merges=True
    ),
    "qwen2": Layout(pattern=_QWEN2, stages=_dump(_split(_QWEN2), byte_level(use_regex=False)), nfc=True),
}  # fmt: skip


def layout_of(value: Mapping[str, Any]) -> Layout:
    """The layout of a tokenizer.json; raises ValueError that names what cannot be expressed exactly."""
    model = value["model"]
    _only(model, "type", (None, "BPE"))
    for key, allowed in (
        ("byte_fallback", (None, False)),
        ("dropout", (None, 0)),
        ("continuing_subword_prefix", (None, "")),
        ("end_of_word_suffix", (None, "")),
        ("ignore_merges", (None, False, True)),
    ):
        _only(model, key, allowed)
    decoders = _flat(value.get("decoder"), "decoders")
    if any(stage["type"] != "ByteLevel" for stage in decoders):
        raise _unknown(f"the decoder {decoders[0]['type']}")
    normalizers = [stage["type"] for stage in _flat(value.get("normalizer"), "normalizers")]
    if set(normalizers) - {"NFC"}:
        raise _unknown(f"the normalizer {', '.join(normalizers)}")
    stages = [_canonical(stage) for stage in _flat(value["pre_tokenizer"], "pretokenizers")]
    return Layout(
        pattern=_pattern(stages),
        stages=_dump(*stages),
        nfc=bool(normalizers),
        ignore_merges=bool(model.get("ignore_merges")),
    )


def begin_of(value: Mapping[str, Any]) -> str | None:
    """The token that a tokenizer.json puts before each text; raises ValueError if it adds any other."""
    stages = [one for one in _flat(value.get("post_processor"), "processors") if one["type"] != "ByteLevel"]
    if not stages:
        return None
    parts = stages[0].get("single", []) if stages[0]["type"] == "TemplateProcessing" and len(stages) == 1 else []
    kinds = [next(iter(part)) for part in parts]
    if kinds == ["Sequence"]:
        return None
    if kinds != ["SpecialToken", "Sequence"]:
        raise _unknown(f"the post_processor {stages[0]['type']}")
    return str(parts[0]["SpecialToken"]["id"])


def begin_processor(token: str, id_: int) -> dict[str, Any]:
    """The part of tokenizer.json that puts `token` before each text."""
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    texts: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")]
    known = {token: {"id": token, "ids": [id_], "tokens": [token]}}
    return {
        "type": "TemplateProcessing", "single": [begin, texts[0]], "pair": [begin, *texts], "special_tokens": known,
    }  # fmt: skip


def _flat(stage: Any, inner: str) -> list[dict[str, Any]]:
    """The stages of a Sequence, or the only one, or none."""
    if stage is None:
        return []
    return [one for part in stage[inner] for one in _flat(part, inner)] if stage["type"] == "Sequence" else [stage]


def _canonical(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage with all its settings, except those that do not change the pieces."""
    kind = stage["type"]
    if kind == "ByteLevel":
        if stage.get("add_prefix_space", True):
            raise _unknown("ByteLevel with add_prefix_space")
        return byte_level(use_regex=bool(stage.get("use_regex", True)))
    if kind == "Digits":
        return {"type": "Digits", "individual_digits": bool(stage.get("individual_digits", False))}
    isolated = kind == "Split" and stage["behavior"] == "Isolated" and not stage.get("invert")
    if isolated and isinstance(pattern := stage["pattern"].get("Regex"), str):
        return _split(pattern)
    raise _unknown(f"the pre-tokenizer {kind}")


def _pattern(stages: Sequence[Mapping[str, Any]]) -> str:
    kinds = [stage["type"] for stage in stages]
    if kinds[-1:] != ["ByteLevel"]:
        raise _unknown(f"the pre-tokenizer {', '.join(kinds) or 'none'}, which does not end with ByteLevel")
    whole = stages[-1]["use_regex"]
    if kinds == ["ByteLevel"] and whole:
        return _GPT2
    if kinds == ["Digits", "ByteLevel"] and whole:
        return _SMOLLM if stages[0]["individual_digits"] else _SMOLLM.replace(r"\p{N}", r"\p{N}+", 1)
    if kinds == ["Split", "ByteLevel"] and not whole:
        return _covering(stages[0]["pattern"]["Regex"])
    raise _unknown(f"the pre-tokenizer {', '.join(kinds)} with use_regex {str(whole).lower()}")


def _covering(pattern: str) -> str:
    """An expression that finds the pieces of a Split and the text between them, which is a piece too."""
    if pattern in (_LLAMA3, _QWEN2):  # leave no text between pieces
        return pattern
    if unsafe := _UNSAFE.search(pattern):
        raise _unknown(f'"{unsafe.group()}" in the expression of Split')
    try:
        found = [one.group() for one in regex.finditer(pattern, _EVERY_KIND)]
    except regex.error as error:
        raise _unknown(f"the expression of Split ({error})") from None
    if "" in found:
        raise _unknown("the expression of Split, which finds empty pieces")
    return rf"(?:{pattern})|(?:(?!{pattern})(?s:.))+"


def _only(model: Mapping[str, Any], key: str, allowed: tuple[Any, ...]) -> None:
    if model.get(key) not in allowed:
        raise _unknown(f"{key} {model[key]}")


def _unknown(what: str) -> ValueError:
    return ValueError(f"it prepares text in an unsupported way: {what[:200]}")
