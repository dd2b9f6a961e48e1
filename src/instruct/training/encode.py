"""Examples to token ids, with the places of the answers that are learnt from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from instruct.core.errors import DataError
from instruct.core.records import Example
from instruct.text.encoding import Encoded, encode_pieces
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer

Turns = Literal["all", "last"]
OverLong = Literal["raise", "truncate", "drop"]


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """Token ids of a chat up to its last end token; what comes first, `prompt_length` of them, is the prompt.

    Each of `later_prompts` is where what stands between two answers begins and ends. All other tokens are answers with
    their end tokens. Of a chat that was too long, `dropped_turns` turns from its beginning are missing.
    """

    id: str
    ids: tuple[int, ...]
    prompt_length: int
    later_prompts: tuple[tuple[int, int], ...] = ()
    dropped_turns: int = 0

    @property
    def token_count(self) -> int:
        """How many tokens it has, end tokens included."""
        return len(self.ids)

    @property
    def response_tokens(self) -> int:
        """How many tokens are answers or end one."""
        return len(self.ids) - self.prompt_length - sum(end - begin for begin, end in self.later_prompts)


def encode_example(
    example: Example, template: Template, tokenizer: Tokenizer, turns: Turns = "all", longest: int | None = None
) -> EncodedExample:
    """Tokenise prompts and answers apart, so that each border is exact and the same as when generating.

    `turns` says whether every answer is learnt from or the last alone. A chat of more than `longest` tokens loses its
    oldest turns, as many as it must and never the last. Raises DataError that names the example for text that the
    tokenizer cannot spell.
    """
    for dropped in range(len(example.turns)):
        try:
            encoded = encode_pieces(tokenizer, template.chat(example.turns[dropped:], example.system))
        except DataError as error:
            raise DataError(f"record {example.id}: {error}") from None
        if longest is None or len(encoded.ids) <= longest:
            break
    return _supervised(example.id, encoded, turns, dropped)


def _supervised(id_: str, encoded: Encoded, turns: Turns, dropped: int) -> EncodedExample:
    answers = encoded.answers if turns == "all" else encoded.answers[-1:]
    between = [(end, begin) for (_, end), (begin, _) in pairwise(answers)]
    return EncodedExample(
        id=id_,
        ids=tuple(encoded.ids),
        prompt_length=answers[0][0],
        later_prompts=tuple(between),
        dropped_turns=dropped,
    )


def encode_all(
    examples: Iterable[Example],
    template: Template,
    tokenizer: Tokenizer,
    *,
    turns: Turns,
    max_length: int,
    over_long: OverLong,
) -> tuple[list[EncodedExample], int, int]:
    """`fit_length` of the examples as training takes them; cut chats lose their oldest turns before any token."""
    longest = max_length if over_long == "truncate" else None
    encoded = (encode_example(one, template, tokenizer, turns, longest) for one in examples)
    return fit_length(encoded, max_length, over_long)


def fit_length(
    encoded: Iterable[EncodedExample], max_length: int, over_long: OverLong
) -> tuple[list[EncodedExample], int, int]:
    """The examples that fit, how many were cut, and how many were dropped.

    A cut response keeps its end token. Raises DataError that lists every over-long example (`raise`), or those of
    which no response would be left (`truncate`).
    """
    fitting: list[EncodedExample] = []
    problems: list[str] = []
    truncated = dropped = 0
    for example in encoded:
        if over_long == "drop" and example.token_count > max_length:
            dropped += 1
        elif problem := misfit(example, max_length, over_long):
            problems.append(f"record {example.id}: {problem}")
        else:
            fitting.append(cut(example, max_length))
            truncated += fitting[-1] is not example or example.dropped_turns > 0
    if problems:
        remedy = "raise train.max_length if the model has room, or set train.over_long to truncate or drop"
        raise DataError("\n".join([*problems, f"{len(problems)} records are too long; {remedy}"]))
    if not fitting:
        raise DataError(f"no record fits into {max_length} tokens; raise train.max_length if the model has room")
    return fitting, truncated, dropped


def misfit(example: EncodedExample, longest: int, over_long: OverLong) -> str:
    """Why an example cannot be used with at most `longest` tokens; empty if it can, cut perhaps."""
    if example.token_count <= longest:
        return ""
    if over_long != "truncate":
        return f"{example.token_count} tokens, more than {longest}"
    prompt = example.prompt_length
    return f"its prompt of {prompt} tokens leaves no response" if prompt > longest - 2 else ""


def cut(example: EncodedExample, longest: int) -> EncodedExample:
    """The example itself if it has at most `longest` tokens, else its beginning and its end token."""
    if example.token_count <= longest:
        return example
    return replace(example, ids=(*example.ids[: longest - 1], example.ids[-1]))


def count_tokens(encoded: Sequence[EncodedExample]) -> tuple[int, int]:
    """All tokens, and those of responses with their end tokens."""
    return sum(len(e.ids) for e in encoded), sum(e.response_tokens for e in encoded)
