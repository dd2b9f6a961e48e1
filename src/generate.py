"""Stage 6 · generate: test prompts → the model's responses.

python src/generate.py data/split/test.json models/sft/best data/responses.json
torchrun --nproc-per-node 2 src/generate.py ...                                (prompts shared by two processes)
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from pathlib import Path

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.files import checkpoint_files
from instruct.core.fingerprint import take_fingerprint
from instruct.core.inputs import check_inputs
from instruct.core.params import load_params
from instruct.core.records import read_examples, write_records
from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.core.stage import run_stage
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.generation.shards import join_shards
from instruct.generation.together import answer_together, what_comes
from instruct.generation.weights import make_ready
from instruct.model.pretrained import load_trained
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)


def main(test: Path, checkpoint: Path, responses: Path) -> None:
    """Answer every test record with a checkpoint."""
    params, prompt = load_params("generate", GenerateParams), load_params("prompt", PromptParams)
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    settings = {"generate": params, "prompt": prompt, "runtime": runtime, "backbone": backbone}
    weights = checkpoint_files(checkpoint)
    template, examples = prompt.chosen, read_examples(test)
    with join_shards(runtime.device) as shards:
        model, tokenizer = load_trained(checkpoint, runtime.device)
        tokenizer = with_end_of(template, tokenizer)
        answerer = make_ready(model, params.weights, runtime)
        if shards.is_main:
            log.info("%s", what_comes(len(examples), str(checkpoint), params, runtime, shards.world_size))
        journal = Journal(shards.journal_beside(responses), take_fingerprint(settings, [test, *weights]))
        everyone = answer_together(
            answerer,
            tokenizer,
            examples,
            shards=shards,
            template=template,
            params=params,
            runtime=runtime,
            journal=journal,
        )
        if shards.is_main:
            check_inputs()
            write_records(responses, everyone)
            log.info("%d answers, %d tokens", len(everyone), sum(record.response_tokens for record in everyone))
        shards.wait()
        journal.forget()


if __name__ == "__main__":
    run_stage(main, writes=("responses",))
