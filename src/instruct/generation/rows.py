"""One answer in progress: its tokens so far, when it stops, and its text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from instruct.generation.drafts import Lookup
from instruct.generation.sampling import next_token
from instruct.generation.settings import GenerateParams
from instruct.text.tokenizer import Tokenizer

StopReason = Literal["end_of_text", "stop_string", "length", "repetition", "cancelled"]
LONGEST_REPEAT = 32  # tokens of a block that the repetition guard looks for


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer to one prompt; `tokens` excludes the end token."""

    text: str
    stop_reason: StopReason
    prompt_tokens: int
    truncated_tokens: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """A token's natural log-probability before temperature, and the most likely tokens at its place with theirs."""

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...]


@dataclass(kw_only=True, eq=False)
class Row:
    """One prompt being answered; `own` is its part after the shared prefix.

    `best` asks for a Score of each token with this many of the most likely tokens; None asks for none.
    """

    id: str
    prompt_tokens: int
    truncated_tokens: int
    own: list[int]
    generator: torch.Generator
    params: GenerateParams
    stop_strings: Sequence[str] = ()
    best: int | None = None
    answer: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    stop_reason: StopReason | None = None
    lookup: Lookup = field(default_factory=Lookup, repr=False)

    def draft(self, most: int) -> list[int]:
        """Up to so many tokens that may come next; the answer has room for them and one more."""
        self.lookup.read([*self.own, *self.answer])
        return self.lookup.draft(min(most, self.params.max_new_tokens - len(self.answer) - 1))

    def choose(self, logits: Tensor, likeliest: int) -> int:
        """The next token from (vocab_size,) logits, of which the `likeliest` is known."""
        greedy = self.params.temperature == 0
        token = likeliest if greedy else next_token(logits, self.params, self.generator)
        if self.best is not None:
            self.scores += scores_of(logits[None], [token], self.best)
        return token

    def take(self, token: int, tokenizer: Tokenizer) -> None:
        """Add a token, or end."""
        self.stop_reason = stop_reason(self, token, tokenizer)

    def finished(self, tokenizer: Tokenizer) -> Answer:
        """The answer of a row that has stopped."""
        text = tokenizer.decode(self.answer)
        if self.stop_reason == "stop_string":
            text = cut_at(text, self.stop_strings)
        assert self.stop_reason is not None
        return Answer(
            text=text.strip(),
            stop_reason=self.stop_reason,
            prompt_tokens=self.prompt_tokens,
            truncated_tokens=self.truncated_tokens,
            tokens=len(self.answer),
        )


def cut_at(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first of the stop strings in it."""
    return text[: min((text.find(stop) for stop in stop_strings if stop in text), default=None)]


def stop_reason(row: Row, token: int, tokenizer: Tokenizer) -> StopReason | None:
    """Why a row ends with this token, or None; it is part of the answer unless it is an end token."""
    if token in tokenizer.stop_ids:
        return "end_of_text"
    row.answer.append(token)
    # A token is at least one byte, so the last tokens hold any stop string that ends with this one.
    reach = max((len(stop.encode()) for stop in row.stop_strings), default=0)
    tail = tokenizer.decode(row.answer[-reach:]) if reach else ""
    if any(stop in tail for stop in row.stop_strings):
        return "stop_string"
    if row.params.max_repeats and repeats(row.answer, row.params.max_repeats):
        return "repetition"
    return "length" if len(row.answer) == row.params.max_new_tokens else None


def repeats(tokens: Sequence[int], times: int) -> bool:
    """Whether `tokens` ends with one block of up to LONGEST_REPEAT tokens, `times` over."""
    for size in range(1, min(LONGEST_REPEAT, len(tokens) // times) + 1):
        block = tokens[-size:]
        if all(tokens[-size * (i + 1) : -size * i or None] == block for i in range(times)):
            return True
    return False


def scores_of(logits: Tensor, tokens: Sequence[int], best: int) -> list[Score]:
    """The scores of `tokens` by (T, vocab_size) logits, with the `best` likeliest of each place."""
    logprobs = logits.log_softmax(-1)
    own = logprobs[range(len(tokens)), tokens].tolist()
    values, ids = logprobs.topk(best)
    return [
        Score(token=token, logprob=logprob, best=tuple(zip(places, likely, strict=True)))
        for token, logprob, places, likely in zip(tokens, own, ids.tolist(), values.tolist(), strict=True)
    ]
