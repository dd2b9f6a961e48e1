"""Stage 3 · generate: test prompts → the model's responses.

python src/generate.py data/split/test.json models/sft/best data/responses.json
python src/generate.py data/split/test.json base data/base_responses.json      (the untuned backbone)
"""

import logging
from dataclasses import asdict
from pathlib import Path

from instruct.generation.decode import generate
from instruct.generation.settings import GenerateParams
from instruct.model.backbones import ModelParams, find_backbone
from instruct.model.checkpoint import load_checkpoint
from instruct.model.pretrained import load_backbone
from instruct.params import load_params
from instruct.records import Response, read_examples, write_records
from instruct.runtime import start_runtime
from instruct.runtime_params import RuntimeParams
from instruct.stage import run_stage
from instruct.text.prompts import TEMPLATES, PromptParams

log = logging.getLogger(__name__)


def main(test: Path, checkpoint: Path, responses: Path) -> None:
    """Answer every test record; `base` in place of a checkpoint is the backbone of params.yaml."""
    params = load_params("generate", GenerateParams)
    template = TEMPLATES[load_params("prompt", PromptParams).template]
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    if checkpoint == Path("base"):
        model, tokenizer = load_backbone(find_backbone(load_params("model", ModelParams).backbone), runtime.device)
    else:
        model, tokenizer = load_checkpoint(checkpoint, runtime.device)
    examples = read_examples(test)
    prompts = {example.id: template.render(example.instruction, example.input) for example in examples}
    answers = generate(model, tokenizer, prompts, params=params, stop_strings=template.stop_strings, runtime=runtime)
    records = [
        Response(
            **asdict(example),
            response=answers[example.id].text,
            stop_reason=answers[example.id].stop_reason,
            prompt_tokens=answers[example.id].prompt_tokens,
            response_tokens=answers[example.id].tokens,
        )
        for example in examples
    ]
    write_records(responses, records)
    log.info("%d answers, %d tokens", len(records), sum(record.response_tokens for record in records))


if __name__ == "__main__":
    run_stage(main)
