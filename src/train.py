"""Stage 2 · train: the backbone and train + val → a checkpoint that answers instructions.

python src/train.py data/split models/sft metrics/train.json metrics/curves
"""

import logging
from pathlib import Path

from instruct.model.backbones import ModelParams, find_backbone
from instruct.model.checkpoint import save_checkpoint
from instruct.model.pretrained import load_backbone
from instruct.params import load_params
from instruct.records import read_examples
from instruct.runtime import start_runtime
from instruct.runtime_params import RuntimeParams
from instruct.stage import run_stage
from instruct.text.prompts import TEMPLATES, PromptParams
from instruct.training.encode import encode_example, fit_length
from instruct.training.loop import ValPoint, train
from instruct.training.results import write_results
from instruct.training.sample import sample_answer
from instruct.training.settings import TrainParams

log = logging.getLogger(__name__)


def main(split: Path, models: Path, metrics: Path, curves: Path) -> None:
    """Fine-tune the backbone; `models` gets best (lowest val loss) and last."""
    params = load_params("train", TrainParams)
    template = TEMPLATES[load_params("prompt", PromptParams).template]
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    model, tokenizer = load_backbone(backbone, runtime.device)
    examples = {part: read_examples(split / f"{part}.json") for part in ("train", "val")}
    longest = min(params.max_length, model.block_size + 1)
    fitted = {
        part: fit_length((encode_example(e, template, tokenizer) for e in examples[part]), longest, params.over_long)
        for part in examples
    }
    first = examples["val"][0]
    prompt = template.render(first.instruction, first.input)

    def on_evaluation(point: ValPoint) -> None:
        answer = sample_answer(model, tokenizer, prompt, params.sample_tokens) if params.sample_tokens else ""
        log.info("step %d: val loss %.4f · %s -> %s", point.step, point.loss, first.instruction, answer)

    history = train(
        model,
        fitted["train"][0],
        fitted["val"][0],
        params=params,
        runtime=runtime,
        pad_id=tokenizer.eos_id,
        on_best=lambda: save_checkpoint(model, tokenizer, models / "best"),
        on_evaluation=on_evaluation,
    )
    save_checkpoint(model, tokenizer, models / "last")
    write_results(metrics, curves, history, fitted)


if __name__ == "__main__":
    run_stage(main)
