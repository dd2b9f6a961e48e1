"""Stages 5 and 6 · baseline, generate: test prompts → the model's responses.

python src/generate.py data/split/test.json models/sft/best data/responses.json
python src/generate.py data/split/test.json base data/base_responses.json      (the base model)
torchrun --nproc-per-node 2 src/generate.py ...                                (prompts shared by two processes)
"""

import logging
from pathlib import Path

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during these imports
from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.fingerprint import take_fingerprint
from instruct.core.params import load_params
from instruct.core.records import read_examples, write_records
from instruct.core.runtime import Runtime, RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.generation.answer import answer_examples, check_examples
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.generation.shards import join_shards
from instruct.generation.weights import make_ready
from instruct.model.pretrained import load_backbone, load_trained
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)


def main(test: Path, checkpoint: Path, responses: Path) -> None:
    """Answer every test record; `base` in place of a checkpoint is the backbone of params.yaml."""
    params, prompt = load_params("generate", GenerateParams), load_params("prompt", PromptParams)
    runtime_params = load_params("runtime", RuntimeParams)
    runtime = start_runtime(runtime_params)
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    untuned = checkpoint == Path("base")
    settings = {"generate": params, "prompt": prompt, "runtime": runtime_params, "backbone": backbone}
    weights = [] if untuned else sorted([*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.json")])
    template, examples = prompt.chosen, read_examples(test)
    with join_shards(runtime.device) as shards:
        model, tokenizer = (
            load_backbone(backbone, runtime.device) if untuned else load_trained(checkpoint, runtime.device)
        )
        tokenizer = with_end_of(template, tokenizer)
        answerer = make_ready(model, params.weights, runtime)
        if shards.world_size > 1:
            check_examples(answerer, tokenizer, examples, template=template, params=params)
        if shards.is_main:
            log.info("%s", what_comes(len(examples), str(checkpoint), params, runtime, shards.world_size))
        journal = Journal(shards.journal_beside(responses), take_fingerprint(settings, [test, *weights]))
        records = answer_examples(
            answerer,
            tokenizer,
            shards.share(examples),
            template=template,
            params=params,
            runtime=runtime,
            journal=journal,
            shown=shards.is_main,
        )
        everyone = shards.collect(records)
        if shards.is_main:
            write_records(responses, everyone)
            log.info("%d answers, %d tokens", len(everyone), sum(record.response_tokens for record in everyone))
        shards.wait()
        journal.forget()


def what_comes(prompts: int, checkpoint: str, params: GenerateParams, runtime: Runtime, processes: int) -> str:
    """What the stage is about to do, in one line."""
    how = "greedy" if params.temperature == 0 else f"drawn at temperature {params.temperature:g}"
    samples = f" {params.num_samples} times" if params.num_samples > 1 else ""
    precision = params.weights if params.weights == "int8" else str(runtime.dtype).removeprefix("torch.")
    shared = f" by {processes} processes" if processes > 1 else ""
    return (
        f"{checkpoint} answers {prompts} prompts{samples}{shared} in up to {params.max_new_tokens} tokens each, {how}, "
        f"on {runtime.device.type} in {precision}"
    )


if __name__ == "__main__":
    run_stage(main, writes=("responses",))
