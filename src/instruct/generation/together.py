"""The combined answers of all processes, and the line that announces them."""

from collections.abc import Sequence

from instruct.core.records import Example, Response
from instruct.core.runtime import Runtime
from instruct.generation.answer import answer_examples, check_examples
from instruct.generation.asking import Asking
from instruct.generation.engine import Model
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.generation.shards import Shards
from instruct.text.tokenizer import Tokenizer


def answer_together(
    model: Model,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    shards: Shards,
    template: Asking,
    params: GenerateParams,
    runtime: Runtime,
    journal: Journal,
) -> list[Response]:
    """One response per example, in order, in every process; each process answers its share."""
    if shards.world_size > 1:
        check_examples(model, tokenizer, examples, template=template, params=params)
    responses = answer_examples(
        model,
        tokenizer,
        shards.share(examples),
        template=template,
        params=params,
        runtime=runtime,
        journal=journal,
        shown=shards.is_main,
    )
    return shards.collect(responses)


def what_comes(prompts: int, who: str, params: GenerateParams, runtime: Runtime, processes: int) -> str:
    """One line about the stage's work."""
    how = "greedy" if params.temperature == 0 else f"drawn at temperature {params.temperature:g}"
    samples = f" {params.num_samples} times" if params.num_samples > 1 else ""
    precision = params.weights if params.weights == "int8" else str(runtime.dtype).removeprefix("torch.")
    shared = f" by {processes} processes" if processes > 1 else ""
    return (
        f"{who} answers {prompts} prompts{samples}{shared} in up to {params.max_new_tokens} tokens each, {how}, "
        f"on {runtime.device.type} in {precision}"
    )
