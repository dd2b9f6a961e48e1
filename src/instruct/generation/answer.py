"""Examples to responses: renders prompts, goes on from the journal, and votes among several answers."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from instruct.core.records import Example, Response
from instruct.core.runtime import Runtime
from instruct.generation.asking import Asking
from instruct.generation.decode import Answer, check_prompts, generate
from instruct.generation.engine import Model
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.generation.vote import majority, sample_ids
from instruct.text.prompts import Piece, Turn
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
    """One response an example, in order; what the journal knows is not computed again; `shown` says so."""
    prompts = _prompts(examples, template, params)
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
    return [_to_response(example, {**known, **new}, params.num_samples) for example in examples]


def check_examples(
    model: Model, tokenizer: Tokenizer, examples: Sequence[Example], *, template: Asking, params: GenerateParams
) -> None:
    """Raise what answering these examples would raise: before they are shared, so that every process says the same."""
    check_prompts(model, tokenizer, _prompts(examples, template, params), prefix=template.prefix_pieces, params=params)


def _prompts(examples: Sequence[Example], template: Asking, params: GenerateParams) -> dict[str, Sequence[Piece]]:
    return {
        id_: template.prompt([Turn(example.instruction, example.input)])
        for example in examples
        for id_ in sample_ids(example.id, params.num_samples)
    }


def _to_response(example: Example, answers: Mapping[str, Answer], num_samples: int) -> Response:
    samples = [answers[id_] for id_ in sample_ids(example.id, num_samples)]
    chosen = samples[majority([sample.text for sample in samples])]
    return Response(
        **asdict(example),
        response=chosen.text,
        stop_reason=chosen.stop_reason,
        prompt_tokens=chosen.prompt_tokens,
        response_tokens=sum(sample.tokens for sample in samples),
        truncated_tokens=chosen.truncated_tokens,
        samples=tuple(sample.text for sample in samples) if num_samples > 1 else (),
    )
