"""Examples to token ids, with the place where the response begins."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from instruct.core.errors import DataError
from instruct.core.records import Example
from instruct.text.encoding import encode_pieces
from instruct.text.prompts import Template, Turn
from instruct.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """Token ids of prompt, response and one end token; the first `prompt_length` of them are the prompt."""

    id: str
    ids: tuple[int, ...]
    prompt_length: int


def encode_example(example: Example, template: Template, tokenizer: Tokenizer) -> EncodedExample:
    """Tokenise prompt and response apart, so that the border is exact and the same as when generating.

    Raises DataError that names the example for text that the tokenizer cannot spell.
    """
    try:
        turn = Turn(example.instruction, example.input, example.output)
        encoded = encode_pieces(tokenizer, template.chat([turn]))
    except DataError as error:
        raise DataError(f"record {example.id}: {error}") from None
    return EncodedExample(id=example.id, ids=tuple(encoded.ids), prompt_length=encoded.answers[0][0])


def fit_length(
    encoded: Iterable[EncodedExample], max_length: int, over_long: Literal["raise", "truncate", "drop"]
) -> tuple[list[EncodedExample], int, int]:
    """The examples that fit, how many were cut, and how many were dropped.

    A cut response keeps its end token. Raises DataError that lists every over-long example (`raise`), or those of
    which no response would be left (`truncate`).
    """
    fitting: list[EncodedExample] = []
    problems: list[str] = []
    truncated = dropped = 0
    for example in encoded:
        length = len(example.ids)
        if length <= max_length:
            fitting.append(example)
        elif over_long == "drop":
            dropped += 1
        elif over_long == "raise":
            problems.append(f"record {example.id}: {length} tokens, more than {max_length}")
        elif example.prompt_length > max_length - 2:
            problems.append(f"record {example.id}: its prompt of {example.prompt_length} tokens leaves no response")
        else:
            fitting.append(replace(example, ids=(*example.ids[: max_length - 1], example.ids[-1])))
            truncated += 1
    if problems:
        remedy = "raise train.max_length if the model has room, or set train.over_long to truncate or drop"
        raise DataError("\n".join([*problems, f"{len(problems)} records are too long; {remedy}"]))
    if not fitting:
        raise DataError(f"no record fits into {max_length} tokens; raise train.max_length if the model has room")
    return fitting, truncated, dropped


def count_tokens(encoded: Sequence[EncodedExample]) -> tuple[int, int]:
    """All tokens, and those of responses with their end tokens."""
    return sum(len(e.ids) for e in encoded), sum(len(e.ids) - e.prompt_length for e in encoded)
