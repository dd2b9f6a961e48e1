"""Rendered chats to token ids, with the position of each answer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from instruct.core.errors import CheckpointError
from instruct.text.prompts import Piece, Template
from instruct.text.tokenizer import Tokenizer

Prompt = str | Sequence[Piece]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids of a chat; each of `answers` is the start of an answer and its end, after the end token."""

    ids: list[int]
    answers: list[tuple[int, int]]


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> Encoded:
    """Tokenise a rendered chat; raises DataError for text that the tokenizer cannot spell."""
    ids: list[int] = list(tokenizer.begin_ids)  # families that put a token before each prompt
    answers: list[tuple[int, int]] = []
    begin = 0
    for part, answered in split_pieces(tokenizer, pieces):
        if isinstance(part, int):
            ids.append(part)
            answers += [(begin, len(ids))] if answered else []
        else:
            begin = len(ids)
            ids += tokenizer.encode(part)
    return Encoded(ids=ids, answers=answers)


def split_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[tuple[str | int, bool]]:
    """Texts that are tokenised separately, and single tokens; each with a flag for answers."""
    parts: list[tuple[str | int, bool]] = []
    joined = ""
    for text, kind in pieces:
        marker = special_id(tokenizer, text) if kind == "marker" else None
        if kind == "text" or (kind == "marker" and marker is None):
            joined += text
            continue
        parts += [(joined, False)] if joined else []
        joined = ""
        if kind == "answer":
            parts.append((text, True))
        else:
            parts.append((tokenizer.eos_id, True) if marker is None else (marker, False))
    return [*parts, (joined, False)] if joined else parts


def count_prompts(
    tokenizer: Tokenizer, prompts: Iterable[Sequence[Piece]], count: Callable[[list[str]], list[int]]
) -> list[int]:
    """The number of tokens of each prompt; `count` counts those of many texts at once."""
    split = [split_pieces(tokenizer, prompt) for prompt in prompts]
    counted = iter(count([part for parts in split for part, _ in parts if isinstance(part, str)]))
    begin = len(tokenizer.begin_ids)
    return [begin + sum(next(counted) if isinstance(part, str) else 1 for part, _ in parts) for parts in split]


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, after the begin token of its family; plain text never becomes a special token."""
    return encode_pieces(tokenizer, [Piece(prompt)] if isinstance(prompt, str) else prompt).ids


def special_id(tokenizer: Tokenizer, marker: str) -> int | None:
    """The special token with this spelling; None if the tokenizer has none."""
    encoding = tokenizer.encoding
    return encoding.encode_single_token(marker) if marker in encoding.special_tokens_set else None


def with_end_of(template: Template, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the end token that ends a response in this template.

    Raises CheckpointError if the tokenizer has some of the template's markers as special tokens but not all.
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
