"""Examples to responses: renders prompts, resumes from the journal, and votes among several answers."""

import logging
import time
from collections.abc import Mapping, Sequence

from instruct.core.errors import DataError
from instruct.core.records import Example, Response
from instruct.core.runtime import Runtime
from instruct.generation.asking import Asking
from instruct.generation.decode import check_prompts, generate
from instruct.generation.engine import Model
from instruct.generation.journal import Journal
from instruct.generation.rows import Answer
from instruct.generation.settings import GenerateParams
from instruct.generation.vote import majority, sample_ids
from instruct.text.encoding import encode_prompt
from instruct.text.prompts import Piece
from instruct.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def answer_examples(
    model: Model,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    template: Asking,
    params: GenerateParams,
    runtime: Runtime,
    journal: Journal,
    shown: bool = True,
) -> list[Response]:
    """One response per example, in order; answers in the journal are reused, and `shown` prints progress."""
    prompts, cut = _prompts(examples, template, params, tokenizer, model.block_size)
    known = {id_: answer for id_, answer in journal.read().items() if id_ in prompts}
    if journal.refusal:
        log.info("%s", journal.refusal)
    if known:
        log.info("going on: %d of %d answers are known", len(known), len(prompts))
    journal.begin(known)
    started = time.perf_counter()
    new = generate(
        model,
        tokenizer,
        {id_: text for id_, text in prompts.items() if id_ not in known},
        prefix=template.prefix_pieces,
        stop_strings=template.stop_strings,
        params=params,
        runtime=runtime,
        on_answer=journal.add,
        known=len(known),
        shown=shown,
    )
    seconds = time.perf_counter() - started
    log.info("%d tokens in %.1f s", sum(answer.tokens for answer in new.values()), seconds)
    return [_to_response(example, {**known, **new}, params.num_samples, cut.get(example.id, 0)) for example in examples]


def check_examples(
    model: Model, tokenizer: Tokenizer, examples: Sequence[Example], *, template: Asking, params: GenerateParams
) -> None:
    """Raise any error of answering these examples, before they are shared, so that all processes agree."""
    prompts, _ = _prompts(examples, template, params, tokenizer, model.block_size)
    check_prompts(model, tokenizer, prompts, prefix=template.prefix_pieces, params=params)


def _prompts(
    examples: Sequence[Example], template: Asking, params: GenerateParams, tokenizer: Tokenizer, block_size: int
) -> tuple[dict[str, Sequence[Piece]], dict[str, int]]:
    """The prompt of each answer by its id, and the tokens that each example lost with its oldest turns."""
    room = block_size - params.max_new_tokens if params.over_long == "truncate" else None
    prompts: dict[str, Sequence[Piece]] = {}
    cut: dict[str, int] = {}
    for example in examples:
        prompt, cut[example.id] = _prompt(example, template, tokenizer, room)
        prompts |= dict.fromkeys(sample_ids(example.id, params.num_samples), prompt)
    return prompts, cut


def _prompt(example: Example, template: Asking, tokenizer: Tokenizer, room: int | None) -> tuple[Sequence[Piece], int]:
    """A chat without the oldest turns that do not fit into `room` tokens, and the number of lost tokens."""
    whole = template.prompt(example.turns, example.system)
    if room is None or not example.history:
        return whole, 0
    try:
        lengths = [len(encode_prompt(tokenizer, whole))]
        while lengths[-1] > room and len(lengths) < len(example.turns):
            shorter = template.prompt(example.turns[len(lengths) :], example.system)
            lengths.append(len(encode_prompt(tokenizer, shorter)))
    except DataError as error:
        raise DataError(f"record {example.id}: {error}") from None
    return template.prompt(example.turns[len(lengths) - 1 :], example.system), lengths[0] - lengths[-1]


def _to_response(example: Example, answers: Mapping[str, Answer], num_samples: int, cut: int) -> Response:
    samples = [answers[id_] for id_ in sample_ids(example.id, num_samples)]
    chosen = samples[majority([sample.text for sample in samples])]
    return Response(
        **vars(example),
        response=chosen.text,
        stop_reason=chosen.stop_reason,
        prompt_tokens=chosen.prompt_tokens + cut,
        response_tokens=sum(sample.tokens for sample in samples),
        truncated_tokens=chosen.truncated_tokens + cut,
        samples=tuple(sample.text for sample in samples) if num_samples > 1 else (),
    )
