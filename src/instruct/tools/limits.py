"""Compares the records with the limits of backbone, training and generation before any of them runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from instruct.core.records import Example
from instruct.generation.settings import GenerateParams
from instruct.text.encoding import count_prompts
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer
from instruct.training.schedule import WarmupCosine
from instruct.training.settings import TrainParams

_COUNTED = 100_000  # records; of a larger file every second, third, … one
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Length:
    """Tokens of one record as in training: the response to the last turn includes its end token."""

    id: str
    prompt: int
    response: int

    @property
    def total(self) -> int:
        return self.prompt + self.response


@dataclass(frozen=True, kw_only=True)
class Room:
    """What bounds lengths: `context` is the backbone's, if known; `exact` counts are by its own tokenizer."""

    train: TrainParams
    generate: GenerateParams
    context: int | None
    exact: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest record that training takes whole; the last one is a target only."""
        return self.train.max_length if self.context is None else min(self.train.max_length, self.context + 1)


def count_lengths(examples: Sequence[Example], template: Template, tokenizer: Tokenizer) -> list[Length]:
    """The lengths of all records, or of a sample at even distances from a very large file."""
    chosen = examples[:: ceil(len(examples) / _COUNTED) or 1]

    prompts = count_prompts(tokenizer, (template.prompt(one.turns, one.system) for one in chosen), tokenizer.lengths)
    responses = tokenizer.lengths([one.output for one in chosen])
    return [
        Length(id=one.id, prompt=prompt, response=response + 1)
        for one, prompt, response in zip(chosen, prompts, responses, strict=True)
    ]


def limit_lines(lengths: Sequence[Length], room: Room) -> tuple[list[str], list[str]]:
    """Warnings, and errors that would stop a stage; inexact counts never stop."""
    warnings, stops = [], []
    for too_long, what, stopping in (
        _beyond_training(lengths, room),
        _beyond_answers(lengths, room),
        _beyond_context(lengths, room),
    ):
        if too_long:
            about = "" if room.exact else "about "
            named = ", ".join(one.id for one in too_long[:_NAMED]) + (", …" if len(too_long) > _NAMED else "")
            line = f"{about}{len(too_long)} of {len(lengths)} {what} (records {named})"
            if stopping and room.exact:
                stops.append(line)
            else:
                warnings.append(f"warning: {line}")
    return warnings, stops


Found = tuple[list[Length], str, bool]


def _beyond_training(lengths: Sequence[Length], room: Room) -> Found:
    found = _longer(lengths, room.longest, lambda one: one.total)
    limit = (
        f"train.max_length {room.longest}"
        if room.longest == room.train.max_length
        else f"the backbone's context of {room.context} tokens"
    )
    fate = {
        "raise": "training stops: set train.over_long to truncate or drop, or shorten them",
        "truncate": "training cuts their responses (train.over_long: truncate)",
        "drop": "training drops them (train.over_long: drop)",
    }[room.train.over_long]
    return found, f"records are longer than {limit}; {fate}", room.train.over_long == "raise"


def _beyond_answers(lengths: Sequence[Length], room: Room) -> Found:
    most = room.generate.max_new_tokens
    # The end token needs no room in an answer.
    found = _longer(lengths, most, lambda one: one.response - 1)
    longest = max((one.response - 1 for one in found), default=0)
    what = f"reference answers are longer than generate.max_new_tokens {most}, the longest has {longest} tokens"
    return found, f"{what}; the model's answers end before theirs, raise it", False


def _beyond_context(lengths: Sequence[Length], room: Room) -> Found:
    if room.context is None:
        return [], "", False
    left = room.context - room.generate.max_new_tokens
    found = _longer(lengths, left, lambda one: one.prompt)
    what = f"prompts leave no room for generate.max_new_tokens in the backbone's context of {room.context} tokens"
    stops = room.generate.over_long == "raise"
    fate = (
        "an answer to them stops generation: lower it, or set generate.over_long: truncate" if stops else "they are cut"
    )
    return found, f"{what}; {fate}", stops


def _longer(lengths: Sequence[Length], limit: int, size: Callable[[Length], int]) -> list[Length]:
    return sorted((one for one in lengths if size(one) > limit), key=size, reverse=True)


def warmup_lines(train: TrainParams, records: int, tokens: float) -> list[str]:
    """A warning if warm-up takes the whole run, with the rate that is reached; `tokens` is the mean of a record."""
    if train.tokens_per_step:
        a_pass = ceil(records * tokens / train.tokens_per_step)
    else:
        a_pass = ceil(records / train.examples_per_step)
    steps = train.epochs * max(a_pass, 1)
    if steps >= train.warmup_steps:
        return []
    schedule = WarmupCosine(
        peak=train.lr, floor=train.lr * train.lr_floor, warmup_steps=train.warmup_steps, total_steps=steps
    )
    return [
        f"warning: training has {steps} steps, fewer than train.warmup_steps {train.warmup_steps}: the learning rate"
        f" reaches {schedule(steps - 1):.3g} of train.lr {train.lr:g}; lower train.warmup_steps, or raise train.epochs"
    ]


def context_without_weights(config: Mapping[str, Any], family: str) -> int | None:
    """The context that a config names, or that of a GPT-2 without one; None if nothing says it."""
    named = config.get("n_positions", config.get("max_position_embeddings", 1024 if family == "gpt2" else None))
    return named if type(named) is int else None
