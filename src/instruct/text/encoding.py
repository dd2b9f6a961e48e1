"""Rendered chats to token ids, with the place of each answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from instruct.core.errors import CheckpointError
from instruct.text.prompts import Piece, Template
from instruct.text.tokenizer import Tokenizer

Prompt = str | Sequence[Piece]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids of a chat; each of `answers` is where an answer begins and where it ends, behind its end token."""

    ids: list[int]
    answers: list[tuple[int, int]]


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> Encoded:
    """Tokenise a rendered chat; raises DataError for text that the tokenizer cannot spell."""
    ids: list[int] = []
    answers: list[tuple[int, int]] = []
    joined = ""
    for text, kind in pieces:
        marker = special_id(tokenizer, text) if kind == "marker" else None
        if kind == "text" or (kind == "marker" and marker is None):
            joined += text
            continue
        ids += tokenizer.encode(joined)
        joined = ""
        if marker is not None:
            ids.append(marker)
        elif kind == "answer":
            begin = len(ids)
            ids += tokenizer.encode(text)
        else:
            ids.append(tokenizer.eos_id)
            answers.append((begin, len(ids)))
    return Encoded(ids=[*ids, *tokenizer.encode(joined)], answers=answers)


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of a prompt; one that is plain text holds no special token."""
    return tokenizer.encode(prompt) if isinstance(prompt, str) else encode_pieces(tokenizer, prompt).ids


def special_id(tokenizer: Tokenizer, marker: str) -> int | None:
    """The special token that is spelled like this; None if the tokenizer has none."""
    encoding = tokenizer.encoding
    return encoding.encode_single_token(marker) if marker in encoding.special_tokens_set else None


def with_end_of(template: Template, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer whose end token is the one that ends a response in this template.

    Raises CheckpointError for a tokenizer that has some markers of the template as special tokens, and lacks others.
    """
    ids = {marker: special_id(tokenizer, marker) for marker in template.markers}
    missing = [marker for marker, id_ in ids.items() if id_ is None]
    if missing and len(missing) < len(ids):
        raise CheckpointError(
            f"the tokenizer lacks {', '.join(missing)}, one of the markers {', '.join(ids)} of the chat template; "
            "set another prompt.template, or use a backbone that has them"
        )
    end = ids.get(template.turn_end)
    return tokenizer if end in (None, tokenizer.eos_id) else replace(tokenizer, eos_id=end)
