"""Greedy answers by the rules of generation, and where an export's first differs from the checkpoint's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from instruct.core.records import Example, Response
from instruct.core.runtime import Runtime
from instruct.exporting.running import Said
from instruct.exporting.source import Source
from instruct.generation.decode import generate
from instruct.generation.rows import StopReason, cut_at, repeats
from instruct.generation.settings import GenerateParams


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first token of an answer that differs from the checkpoint's: its place, both tokens, and their logit gap.

    `tie` is true if the gap is within the program's rounding error.
    """

    id: str
    place: int
    checkpoint: str
    export: str
    margin: float
    tie: bool


def answer_ours(source: Source, examples: Sequence[Example], params: GenerateParams) -> list[Response]:
    """The checkpoint's own greedy answers, from the engine of `dvc repro generate`."""
    answers = generate(
        source.model,
        source.tokenizer,
        {one.id: source.template.prompt(one.turns, one.system) for one in examples},
        prefix=source.template.prefix_pieces,
        stop_strings=source.template.stop_strings,
        params=replace(params, temperature=0.0, num_samples=1, weights="fp32"),
        runtime=Runtime(torch.device("cpu"), torch.float32),
        shown=False,
    )
    return [
        one.answered(answer.text, answer.stop_reason, answer.prompt_tokens, answer.tokens)
        for one, answer in zip(examples, answers.values(), strict=True)
    ]


def cut_answer(source: Source, said: Said, params: GenerateParams) -> tuple[Said, StopReason]:
    """An answer cut where generation would have ended it: at a stop string, a repetition or `max_new_tokens`.

    A shorter answer was ended by the program, whatever its reason.
    """
    for end in range(1, len(said.tokens) + 1):
        tokens = said.tokens[:end]
        text = source.tokenizer.decode(tokens)
        reason: StopReason | None = None
        if any(stop in text for stop in source.template.stop_strings):
            reason = "stop_string"
        elif params.max_repeats and repeats(tokens, params.max_repeats):
            reason = "repetition"
        elif end == params.max_new_tokens:
            reason = "length"
        if reason:
            return replace(said, tokens=tokens, ended=False), reason
    return replace(said, ended=True), "end_of_text"


def answer_theirs(source: Source, example: Example, said: Said, reason: StopReason) -> Response:
    """An answer of an export as a record, with its text cut as generation cuts it."""
    text = source.tokenizer.decode(said.tokens)
    if reason == "stop_string":
        text = cut_at(text, source.template.stop_strings)
    return example.answered(text.strip(), reason, len(said.prompt), len(said.tokens))


@torch.inference_mode()
def find_parting(source: Source, said: Said, rounding: float) -> Parting | None:
    """Where an answer leaves the checkpoint's greedy path, or None if each token is the checkpoint's first choice.

    Takes one forward pass over prompt and answer. If the answer ended, its end token is compared too; an answer that
    goes on after an end token parts there. Two logits are tied if they differ by at most `rounding`, the program's
    rounding error.
    """
    ids = [*said.prompt, *said.tokens]
    start = len(said.prompt) - 1
    logits = source.model(torch.tensor([ids]))[0, start:].float()  # (answer + 1, vocab_size)
    ours = logits.argmax(dim=-1).tolist()
    for place, token in enumerate(said.tokens):
        if ours[place] != token:
            return _parting(source, said, place, logits[place], (ours[place], token), rounding)
        if token in source.tokenizer.stop_ids and (after := said.tokens[place + 1 : place + 2]):
            return replace(_parting(source, said, place, logits[place], (token, after[0]), rounding), tie=False)
    last = len(said.tokens)
    if said.ended and ours[last] not in source.tokenizer.stop_ids:
        return _parting(source, said, last, logits[last], (ours[last], source.tokenizer.eos_id), rounding)
    return None


def _parting(
    source: Source, said: Said, place: int, logits: torch.Tensor, chosen: tuple[int, int], rounding: float
) -> Parting:
    ours, theirs = (source.tokenizer.decode([id_]) for id_ in chosen)
    margin = round(float(logits[chosen[0]] - logits[chosen[1]]), 6)
    return Parting(id=said.id, place=place, checkpoint=ours, export=theirs, margin=margin, tie=margin <= rounding)
